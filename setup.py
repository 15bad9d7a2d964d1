"""Drives CMake to build the extension; everything about sources, flags and architectures is in CMakeLists.txt."""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_namespace_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def remove_libraries(folder):
    """Remove those of an earlier build: one with CUDA, perhaps, or one for a single Python, which it would prefer."""
    for pattern in ("_C.*", "libtmt_cuda.so"):
        for library in folder.glob(pattern):
            library.unlink()


class CMakeBuild(build_ext):
    """Builds every target of CMakeLists.txt into the folder where setuptools wants `tmt_ext/_C`."""

    def build_extension(self, extension):
        import torch  # here: a source distribution is made without it
        from torch.utils import cpp_extension

        output = Path(self.get_ext_fullpath(extension.name)).resolve().parent
        work = Path(self.build_temp).resolve()
        work.mkdir(parents=True, exist_ok=True)
        remove_libraries(output)
        options = {
            "CMAKE_BUILD_TYPE": "Debug" if self.debug else "Release",
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": output,
            "Python_EXECUTABLE": sys.executable,
            "TMT_VERSION": self.distribution.get_version(),
            "TMT_TORCH_INCLUDE": ";".join(cpp_extension.include_paths()),
            "TMT_TORCH_LIB": Path(torch.__file__).parent / "lib",
            "TMT_CUDA": os.environ.get("TMT_CUDA", "auto"),
            "TMT_CUDA_ARCHITECTURES": os.environ.get("TORCH_CUDA_ARCH_LIST", ""),
            "TMT_SANITIZE": os.environ.get("TMT_SANITIZE", ""),
        }
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count() or 1))
        # Fresh: what the cache remembers may have lived in an isolated build environment that is gone.
        definitions = [f"-D{name}={value}" for name, value in options.items()]
        subprocess.run(["cmake", "--fresh", "-G", "Ninja", "-S", ROOT, "-B", work, *definitions], check=True)
        subprocess.run(["cmake", "--build", str(work), "--parallel", jobs], check=True)

    def copy_extensions_to_source(self):
        """For in-place and editable builds: the CUDA library, which setuptools does not know, goes beside `_C`."""
        remove_libraries(ROOT / "tmt_ext")
        super().copy_extensions_to_source()
        for library in Path(self.build_lib).glob("tmt_ext/libtmt_cuda.so"):
            self.copy_file(library, ROOT / "tmt_ext" / library.name)


setup(
    packages=[*find_namespace_packages("python", include=["tmt", "tmt.*"]), "tmt_ext"],
    package_dir={"tmt": "python/tmt", "tmt_ext": "tmt_ext"},
    ext_modules=[Extension("tmt_ext._C", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": CMakeBuild},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
