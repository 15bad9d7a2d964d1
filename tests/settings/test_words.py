"""Mistakes on command lines and in files of settings: one line in plain words, which names the file and the mend."""

from pathlib import Path

import pytest

from tmt.cli import data, evaluate, predict
from tmt.errors import ConfigError
from tmt.settings import MakeConfig, PredictConfig, StudyConfig
from tmt.settings import arguments as settings

INTERNALS = ("<class", "typing.", "Subtypes", "Union", "Parser key", "unicode string", "Traceback")

LINES = {
    "--config dmeo": "paper, small-real, tiny) or a YAML file, got dmeo; did you mean demo?",
    "--config .": "config: must be a preset",
    "--augment.crop 64": "augment.crop: must be 2 values, each a whole number of at least 1, got [64]",
    "--augment.crop 64,a": "augment.crop: must be 2 values, each a whole number of at least 1, got",
    "--augment.scale 1": "augment.scale: must be 2 values, each a number above 0, got [1]",
    "--data.source gta": "data.source: must be one of cityscapes, bdd100k, mapillary, gtav, synthia, camvid, idd, "
    "idd_lite, labelmefacade, folders, got gta",
    "--target.steps abc": "target.steps: must be a whole number of at least 1, got abc",
    "--target.steps 1.5": "target.steps: must be a whole number of at least 1, got 1.5",
    "--target.steps": "--target.steps: must be followed by a value, got none",
    "--model.kappa sharp": "model.kappa: must be a number above 0",
    "--stages source,tmtt": "stages: must be a tuple, each one of source, estimator, linear, full, joint, leep, otce",
    "--trget.steps 3": "--trget.steps: unknown option; did you mean --target.steps?",
    "extra": "extra: must be left out",
}
FILES = {
    "": "must hold settings, such as 'seed: 1', got nothing",
    "# only a remark\n": "got nothing",
    "- 1\n": "must hold settings, such as 'seed: 1', got a list",
    "just words\n": "got a str",
    "modle: {hidden: 64}\n": "modle: unknown setting; did you mean model",
    "model: {hiden: 64}\n": "model.hiden: unknown setting; did you mean model.hidden?",
    "model: 3\n": "model: must be a group of settings, got 3",
    "seed: 1\na: [1\nb: 2\n": "must be YAML, got a mistake in its form",
    "target: {steps: abc}\n": "target.steps: must be a whole number of at least 1, got abc",
    "target: {steps: 0}\n": "target.steps: must be a whole number of at least 1, got 0",
    "inherits: dmeo\n": "inherits: must be a preset",
    "inherits: mine.yaml\n": "inherits from itself",
    "augment: {crop: [1, 2, 3]}\n": "augment.crop: must be 2 values",
}


def one_line(error: pytest.ExceptionInfo[ConfigError]) -> str:
    text = str(error.value)
    assert "\n" not in text and not any(word in text for word in INTERNALS), text
    return text


@pytest.mark.parametrize("line", LINES)
def test_mistakes_on_the_command_line(line: str) -> None:
    with pytest.raises(ConfigError) as error:
        settings.parse(line.split())
    assert LINES[line] in one_line(error)


@pytest.mark.parametrize("text", FILES)
def test_mistakes_in_a_file_name_the_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        settings.parse(["--config", str(path), "--out", "here"])
    assert str(path) in one_line(error) and FILES[text] in str(error.value)


def test_the_line_of_a_mistake_in_yaml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 1\nmodel:\n\thidden: 3\n")
    with pytest.raises(ConfigError, match=rf"{path}:3: must be YAML"):
        settings.parse([f"--config={path}"])


def test_what_the_command_line_says_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("target: {steps: 3}\n")
    with pytest.raises(ConfigError) as error:
        settings.parse(["--config", str(path), "--target.steps", "abc"])
    assert str(path) not in one_line(error)


def test_lists_need_no_brackets_anywhere() -> None:
    line = "--augment.crop 64,128 --augment.scale=0.5,2 --model.depths 1 2 3 4 --data.synthetic_size [32,64]"
    given = settings.parse(line.split())
    assert given.augment.crop == (64, 128) and given.augment.scale == (0.5, 2.0)
    assert given.model.depths == (1, 2, 3, 4) and given.data.synthetic_size == (32, 64)
    line = "--dataset gtav --root x --size 64 128 --seed 3"
    made = settings.parse_command("make", line.split(), MakeConfig)
    assert made.size == (64, 128) and made.seed == 3
    line = "m --scales 1 --window 96,96 a.png --out o"
    predicted = settings.parse_command("predict", line.split(), PredictConfig)
    assert predicted.scales == (1.0,) and predicted.window == (96, 96) and predicted.paths == ("a.png",)


def test_names_of_their_own_and_repeated_options() -> None:
    line = "table1 --root gtav=a,b --from old --list --root bdd100k=c"
    given = settings.parse_command("study", line.split(), StudyConfig)
    assert given.study == "table1" and given.reuse == "old" and given.list and given.root == ("gtav=a,b", "bdd100k=c")
    assert settings.parse_command("study", [], StudyConfig) == StudyConfig()


@pytest.mark.parametrize(
    ("entry", "line", "words"),
    [
        (evaluate, "m --dataset gtav --root x --window 96", "window: must be 2 values"),
        (evaluate, "m --dataset gtvv --root x", "dataset: must be one of cityscapes,"),
        (evaluate, "m --dataset gtav", "--root: must be given"),
        (evaluate, "", "MODEL, --dataset, --root: must be given"),
        (predict, "m a.png --out o --save lables", "save: must be"),
        (predict, "m a.png --out o --opacity 2", "opacity: must be a number of at least 0 and at most 1, got 2"),
        (data, "mkae", "command: must be one of make, check, picture, got mkae; did you mean make?"),
        (data, "make --dataset gtva --root x", "dataset: must be one of cityscapes, bdd100k,"),
        (data, "make --dataset gtav --root x --size 9", "size: must be 2 values, each a whole number of at least 16"),
        (data, "check kitti x", "dataset: must be one of"),
        (data, "check gtav x --version v1.2", "mapillary_version: is for the dataset mapillary"),
        (data, "picture --out x.png --scenes 0", "scenes: must be a whole number of at least 1, got 0"),
    ],
)  # fmt: skip
def test_mistakes_of_the_other_commands(entry, line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(line.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and words in said and said.count("\n") == 1, said
    assert not any(word in said for word in INTERNALS), said
