"""The end of a run: one table of all finished stages, and pictures of what the models make of the target domain."""

from typing import Any

from tmt.inference.look import look
from tmt.model import TMTForSemanticSegmentation
from tmt.model.factory import freeze, open_model
from tmt.runtime.files import write_json, write_text
from tmt.settings import Config, outcome
from tmt.training import results_table
from tmt.training.domains import Domains
from tmt.training.loop import Workplace
from tmt.visualize import panels

Results = dict[str, dict[str, Any]]
"""What finished stages left in done.json, by stage."""


def summarise(results: Results, config: Config, domains: Domains, at: Workplace) -> None:
    """Write results.json, results.md and the pictures into the run's folder, and print the table.

    Only the main process does anything.
    """
    models = {stage: result for stage, result in results.items() if stage != "estimator"}
    if not models or not at.world.main:
        return
    rows = results_table.rows_of(models)
    table = results_table.to_markdown(rows)
    content = {"rows": results_table.to_json(rows), "estimator": results.get("estimator")}
    write_json(at.folder / "results.json", content)
    write_text(at.folder / "results.md", table + "\n")
    at.world.say(f"\n{table}\n")
    _draw({stage: str(result["method"]) for stage, result in models.items()}, config, domains, at)
    at.world.say(f"results: {at.folder / 'results.md'}, pictures: {at.folder / 'pictures'}")


def _draw(titles: dict[str, str], config: Config, domains: Domains, at: Workplace) -> None:
    """One sheet for each of some target validation images, with the prediction of every finished stage."""
    loaded = {title: _load(stage, at) for stage, title in titles.items()}
    images = domains.target.val
    for index in panels.spread(config.pictures, len(images)):
        if at.stop.asked():
            raise at.stop.interruption("while drawing pictures")
        sample = images[index]
        views = {title: look(model, sample.image, config.evaluation) for title, model in loaded.items()}
        label = sample.label if domains.target.labelled else None
        drawn = panels.panels_of(sample.image, label, views, domains.label_set)
        sheet = panels.compose(drawn, columns=4, label_set=domains.label_set)
        panels.save(sheet, at.folder / "pictures" / f"{sample.name}.png")


def _load(stage: str, at: Workplace) -> TMTForSemanticSegmentation:
    model = open_model(outcome(at.folder, stage)).to(at.world.device)
    freeze(model)
    return model
