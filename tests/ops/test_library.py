"""What is said where the compiled extension is not found."""

from tmt_ext import _library


def test_sources_that_hide_the_installed_package_are_named(tmp_path, monkeypatch):
    project, site = tmp_path / "project", tmp_path / "site"
    (project / "csrc").mkdir(parents=True)
    (project / "tmt_ext").mkdir()
    (site / "tmt_ext").mkdir(parents=True)
    monkeypatch.setattr(_library, "__file__", str(project / "tmt_ext" / "_library.py"))
    monkeypatch.setattr("sys.path", [str(project), str(site)])
    assert _library._mend() == _library.MEND  # nothing is installed
    (site / "tmt_ext" / "_C.abi3.so").touch()
    assert f"the sources in {project} before the installed package" in _library._mend()
