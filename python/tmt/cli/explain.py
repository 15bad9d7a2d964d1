"""Draw how a model of stage tmt treats an image: superpixels, T, and where a query attends, layer by layer.

python -m tmt.explain runs/demo/tmt/model street.png --out explained.png
python -m tmt.explain MODEL street.png --follow car --out explained.png
"""

from collections.abc import Sequence
from pathlib import Path

from tmt.cli.command import command
from tmt.settings import ExplainConfig
from tmt.settings.arguments import parse_command


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0 done, 2 a mistake named on one line, 128 + n stopped by signal n."""
    return command(lambda given: draw(parse_command("python -m tmt.explain", given, ExplainConfig)), argv)


def draw(config: ExplainConfig) -> None:
    """Write the picture. Raises tmt.errors.TMTError for what the user can mend."""
    from tmt.data.files import read_image
    from tmt.inference.explaining import explain
    from tmt.model.factory import freeze, open_named
    from tmt.visualize.panels import save

    model = open_named(config.model)
    freeze(model)
    save(explain(model, read_image(Path(config.image)), config.follow), Path(config.out))
    print(config.out)
