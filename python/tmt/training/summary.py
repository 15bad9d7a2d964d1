"""The end of a run: one table of all finished stages, and pictures of what the models make of the target domain."""

from torch import nn

from tmt.inference.look import look
from tmt.model.factory import freeze, open_model
from tmt.runtime.files import write_json, write_text
from tmt.runtime.signals import Interrupted
from tmt.settings import outcome
from tmt.training import results_table
from tmt.training.run import ORDER, Run
from tmt.visualize import panels


def summarise(run: Run) -> None:
    """Write results.json, results.md and the pictures, and print the table. Only the main process does anything."""
    results = {stage: run.result(stage) for stage in ORDER}
    models = {stage: result for stage, result in results.items() if result and stage != "estimator"}
    if not models or not run.world.main:
        return
    rows = results_table.rows_of(models)
    table = results_table.to_markdown(rows)
    write_json(run.folder / "results.json", {"rows": results_table.to_json(rows), "estimator": results["estimator"]})
    write_text(run.folder / "results.md", table + "\n")
    run.world.say(f"\n{table}\n")
    _draw(run, {stage: str(result["method"]) for stage, result in models.items()})
    run.world.say(f"results: {run.folder / 'results.md'}, pictures: {run.folder / 'pictures'}")


def _draw(run: Run, titles: dict[str, str]) -> None:
    """One sheet for each of some target validation images, with the prediction of every finished stage."""
    loaded = {title: _load(run, stage) for stage, title in titles.items()}
    for index in panels.spread(run.config.pictures, len(run.target.val)):
        if run.stop.asked():
            raise Interrupted(run.stop.signum, "while drawing pictures")
        sample = run.target.val[index]
        views = {title: look(model, sample.image, run.config.evaluation) for title, model in loaded.items()}
        drawn = panels.panels_of(sample.image, sample.label, views, run.label_set)
        sheet = panels.compose(drawn, columns=4, label_set=run.label_set)
        panels.save(sheet, run.folder / "pictures" / f"{sample.name}.png")


def _load(run: Run, stage: str) -> nn.Module:
    model = open_model(outcome(run.folder, stage), {}).to(run.world.device)
    freeze(model)
    return model
