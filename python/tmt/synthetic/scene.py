"""What stands where: one street drawn from a domain, painted from far to near."""

from collections.abc import Callable
from functools import partial
from random import Random

from tmt.synthetic.buildings import draw_fence, draw_house, draw_skyline, draw_wall
from tmt.synthetic.canvas import EGO, Canvas, Light, Paint, Stage, View
from tmt.synthetic.domain import Domain
from tmt.synthetic.furniture import draw_clutter, draw_lamp, draw_light, draw_sign
from tmt.synthetic.ground import Plan, draw_ground, draw_plan
from tmt.synthetic.people import draw_bicycle, draw_motorcycle, draw_person
from tmt.synthetic.plants import draw_bush, draw_hedge, draw_tree, draw_treeline
from tmt.synthetic.vehicles import Pose, draw_bus, draw_car, draw_truck

Task = tuple[float, Callable[[], None]]  # distance, and what to paint there
SIDES = (-1, 1)


def draw_scene(domain: Domain, rng: Random, width: int, height: int) -> Stage:
    """A canvas of `width` x `height` pixels with one finished street."""
    view = _view(domain, rng, width, height)
    weather = domain.weather
    light = Light(rng.choice(SIDES), rng.uniform(*weather.sun), rng.uniform(*weather.shadow_length))
    stage = Stage(domain, Canvas(view), view, light, rng)
    crossings = ((near := rng.uniform(12, 45), near + rng.uniform(7, 10)),) if rng.random() < 0.45 else ()
    plan = draw_plan(stage, crossings)
    draw_backdrop = draw_skyline if stage.chance(0.6) else draw_treeline
    draw_backdrop(stage, 160)
    draw_ground(stage, plan)
    tasks = [task for side in SIDES for task in _lots(stage, plan, side) + _sidewalk(stage, plan, side)]
    tasks += _traffic(stage, plan) + _parked(stage, plan) + _crossing(stage, plan)
    for _, paint in sorted(tasks, key=lambda task: -task[0]):
        paint()
    if stage.chance(domain.optics.bonnet):
        _bonnet(stage)
    return stage


def _view(domain: Domain, rng: Random, width: int, height: int) -> View:
    optics = domain.optics
    return View(
        width=width,
        height=height,
        focal=rng.uniform(*optics.focal) * width,
        centre=rng.uniform(*optics.ahead) * width,
        horizon=rng.uniform(*optics.horizon) * height,
        camera_x=rng.uniform(*optics.side),
        camera_y=rng.uniform(*optics.height),
        bend=rng.uniform(-1, 1) * optics.bend,
        climb=rng.uniform(-1, 1) * optics.climb,
    )


def _lots(stage: Stage, plan: Plan, side: int) -> list[Task]:
    """What stands behind the sidewalk, plot by plot."""
    street, tasks = stage.domain.street, []
    z = stage.pick((0.8, 6.0))
    while z < 100:
        end = z + stage.pick(street.lot)
        if plan.crossed(z, end):
            z = max(end for _, end in plan.crossings)
            end = z + stage.pick(street.lot)
        x = plan.walk_end(side) + side * stage.pick(street.setback)
        kind = stage.rng.choices(("house", "wall", "fence", "park", "gap"), street.lots)[0]
        tasks += _lot(stage, side, x, max(z, 0.8), end, kind)
        z = end + (stage.pick((0.0, 3.0)) if stage.chance(0.3) else 0.0)
    return tasks


def _lot(stage: Stage, side: int, x: float, near: float, far: float, kind: str) -> list[Task]:
    """The tasks of one plot; gardens and parks hold trees and bushes."""
    if kind == "house":
        return [(far, partial(draw_house, stage, side, x, near, far))]
    if kind == "gap":
        return []
    tasks = [
        (z, partial(draw_tree, stage, x + side * stage.pick((2.0, 7.0)), z))
        for z in (stage.pick((max(near, 4.0), far)) for _ in range(2))
        if far > 4
    ]
    if stage.chance(0.5):
        back = x + side * stage.pick((7, 12))
        tasks.append((far + 4, partial(draw_house, stage, side, back, near, far)))
    match kind:
        case "wall":
            tasks.append((far, partial(draw_wall, stage, side, x, near, far)))
        case "fence":
            tasks.append((far, partial(draw_fence, stage, side, x, near, far)))
        case "park" if stage.chance(0.5):
            tasks.append((far, partial(draw_hedge, stage, side, x, near, far)))
        case "park":
            bushes = [stage.pick((max(near, 3.0), max(far, 4.0))) for _ in range(3)]
            tasks += [(z, partial(draw_bush, stage, x + side * stage.pick((0, 4)), z)) for z in bushes]
    return tasks


def _rows(stage: Stage, spacing: tuple[float, float], far: float) -> list[float]:
    """Distances of things in a row along the street."""
    rows, z = [], stage.pick((4.0, 4.0 + spacing[0]))
    while z < far:
        rows.append(z)
        z += stage.pick(spacing)
    return rows


def _sidewalk(stage: Stage, plan: Plan, side: int) -> list[Task]:
    """Lamps, trees, lights, signs, clutter and people of one side."""
    many, rng, near = stage.domain.population, stage.rng, stage.view.near + 0.5
    edge = plan.curb(side) + side * 0.5
    inner, outer = plan.walk_start(side) + side * 0.8, plan.walk_end(side) - side * 0.4

    def spots(count: tuple[int, int]) -> list[float]:
        share = [index for index in range(rng.randint(*count)) if index % 2 == (side > 0)]
        return [near + (many.far - near) * rng.random() ** 1.6 for _ in share]

    tasks = [(z, partial(draw_lamp, stage, side, edge, z)) for z in _rows(stage, many.poles, many.reach)]
    if stage.chance(0.6):
        tasks += [(z, partial(draw_tree, stage, edge + side * 0.3, z)) for z in _rows(stage, many.trees, 45)]
    tasks += [(z, partial(draw_light, stage, side, edge, z)) for z in spots(many.lights)]
    tasks += [(z, partial(draw_sign, stage, edge, z)) for z in spots(many.signs)]
    tasks += [(z, partial(draw_clutter, stage, outer, z)) for z in spots(many.clutter)]
    for z in spots(many.bicycles):
        tasks.append((z, partial(draw_bicycle, stage, rng.uniform(inner, outer), z)))
    for z in spots(many.persons):
        tasks.append((z, partial(draw_person, stage, rng.uniform(inner, outer), z)))
    return tasks


def _parked(stage: Stage, plan: Plan) -> list[Task]:
    """Cars, and now and then a motorcycle, in the parking lanes."""
    tasks = []
    for side in SIDES:
        if plan.parking[side > 0] < 1:
            continue
        x, z = plan.curb(side) - side * 1.05, stage.pick((3.5, 9.0))
        while z < 45:
            if stage.chance(stage.domain.population.parked) and not plan.crossed(z - 1, z + 6):
                towards = side < 0 if stage.chance(0.9) else side > 0
                tasks.append((z, partial(draw_car, stage, Pose(x, z, towards=towards))))
            z += stage.pick((5.3, 6.5))
    return tasks


def _traffic(stage: Stage, plan: Plan) -> list[Task]:
    """What drives: the right half of the road away from the camera, the left half towards it."""
    many, rng, tasks = stage.domain.population, stage.rng, []
    taken: list[tuple[float, float, float]] = []

    def place(length: float, near: float, far: float) -> tuple[float, float, bool] | None:
        for _ in range(6):
            lane = rng.choice([lane + 0.5 for lane in range(-plan.lanes, plan.lanes)])
            x, z = lane * plan.lane, near + (far - near) * rng.random() ** 1.8
            if all(x != other or z > end + 1.5 or z + length < start - 1.5 for other, start, end in taken):
                taken.append((x, z, z + length))
                return x + rng.uniform(-0.3, 0.3), z, x < 0
        return None

    for draw, count, length, near in (
        (None, many.large, 11.0, 8.0), (draw_car, many.cars, 5.0, 6.0),
        (partial(draw_bicycle, ridden=True), many.riders, 2.0, stage.view.near),
        (partial(draw_motorcycle, ridden=True), many.motorcycles, 2.0, stage.view.near),
    ):  # fmt: skip
        for _ in range(rng.randint(*count)):
            if spot := place(length, max(near, many.nearest), many.far if length < 3 else max(40, many.far)):
                tasks.append((spot[1], _moving(stage, draw, *spot)))
    return tasks


def _large(stage: Stage) -> tuple[Callable, ...]:
    """The kinds of large vehicles; always two, so that each has its share."""
    return (draw_truck, draw_bus) if stage.domain.population.trucks else (draw_bus, draw_bus)


def _moving(stage: Stage, draw: Callable | None, x: float, z: float, towards: bool) -> Callable[[], None]:
    """The task of one moving thing; `draw` None stands for a truck or a bus."""
    if draw is None:
        draw = stage.rng.choice(_large(stage))
        return partial(draw, stage, Pose(x, z, towards=towards))
    if draw is draw_car:
        return partial(draw_car, stage, Pose(x, z, towards=towards))
    return partial(draw, stage, x, z)


def _crossing(stage: Stage, plan: Plan) -> list[Task]:
    """On side streets: vehicles seen from the side, and people on the zebra."""
    tasks = []
    for near, _ in plan.crossings:
        if stage.chance(0.6):
            draw = stage.rng.choice((draw_car, draw_car, *_large(stage)))
            x, towards = stage.pick((-14, 6)), stage.chance(0.5)
            tasks.append((near + 2, partial(draw, stage, Pose(x, near + 2, across=True, towards=towards))))
        for _ in range(stage.rng.randint(0, 3)):
            x, z = stage.pick((plan.curb(-1), plan.curb(1))), near - stage.pick((1.5, 4.0))
            tasks.append((z, partial(draw_person, stage, x, z)))
    return tasks


def _bonnet(stage: Stage) -> None:
    """The own car's bonnet at the lower edge."""
    width, height = stage.view.width, stage.view.height
    rise = height * stage.pick((0.05, 0.1))
    colour = stage.colour(stage.domain.colours.vehicle)
    points = [(0, height), (0.1 * width, height - 0.8 * rise), (0.3 * width, height - rise)]
    points += [(width - x, y) for x, y in reversed(points)]
    stage.canvas.polygon(points, Paint(EGO, colour).lit(0.6), 1.0)
