"""The street's cross-section and what lies flat on the ground: road, markings, sidewalks, verges, side streets."""

from collections.abc import Callable
from dataclasses import dataclass

from tmt.synthetic.canvas import ROAD, SIDEWALK, TERRAIN, VEGETATION, Paint, Stage
from tmt.synthetic.texture import GRAIN, GRASS, TILE

NEAR, FAR = 0.7, 260.0
STATIONS = (0.7, 1.5, 2.5, 4.0, 6.5, 10.0, 16.0, 26.0, 42.0, 70.0, 120.0, 260.0)


@dataclass(frozen=True)
class Plan:
    """The cross-section of one street, in metres from its middle; pairs are left and right."""

    lane: float
    lanes: int  # per direction
    parking: tuple[float, float]  # width of the parking lanes
    verge: tuple[float, float]  # width of the grass between road and sidewalk
    walk: tuple[float, float]  # width of the sidewalks
    crossings: tuple[tuple[float, float], ...]  # near and far end of the side streets

    def curb(self, side: int) -> float:
        """Signed x of the road's edge on side -1 or 1."""
        return side * (self.lanes * self.lane + self.parking[side > 0])

    def walk_start(self, side: int) -> float:
        """Signed x of the sidewalk's edge towards the road."""
        return self.curb(side) + side * self.verge[side > 0]

    def walk_end(self, side: int) -> float:
        """Signed x of the sidewalk's edge towards the houses."""
        return self.walk_start(side) + side * self.walk[side > 0]

    def crossed(self, near: float, far: float) -> bool:
        """Whether a side street lies between two distances."""
        return any(near < end and far > start for start, end in self.crossings)


def _both(draw: Callable[[], float]) -> tuple[float, float]:
    """Drawn for the left side, then for the right one."""
    return draw(), draw()


def draw_plan(stage: Stage, crossings: tuple[tuple[float, float], ...]) -> Plan:
    """A cross-section drawn from the domain's street."""
    street = stage.domain.street
    return Plan(
        lane=stage.pick(street.lane),
        lanes=stage.rng.randint(*street.lanes),
        parking=_both(lambda: 2.2 if stage.chance(street.parking) else 0.3),
        verge=_both(lambda: stage.pick((1.0, 2.5)) if stage.chance(street.verge) else 0.0),
        walk=_both(lambda: stage.pick(street.sidewalk)),
        crossings=crossings,
    )


def strip(stage: Stage, left: float, right: float, paint: Paint, near: float = NEAR, far: float = FAR) -> None:
    """A band of ground between two lines along the street."""
    stations = [near, *(z for z in STATIONS if near < z < far), far]
    points = [(left, 0.0, z) for z in stations] + [(right, 0.0, z) for z in reversed(stations)]
    stage.canvas.world(points, paint)


def flat(stage: Stage, left: float, right: float, near: float, far: float, paint: Paint) -> None:
    """A rectangle on the ground."""
    stage.canvas.world([(left, 0, near), (right, 0, near), (right, 0, far), (left, 0, far)], paint)


def draw_ground(stage: Stage, plan: Plan) -> None:
    """Everything flat, from the outside to the middle of the street."""
    street, colours = stage.domain.street, stage.domain.colours
    rough = stage.pick(street.texture)
    road = Paint(ROAD, stage.colour(colours.road), GRAIN, rough, 1.5, ground=True)
    texture = TILE if stage.chance(street.tiles) else GRAIN
    walk = Paint(SIDEWALK, stage.colour(colours.sidewalk), texture, rough, stage.pick((1.0, 1.8)), ground=True)
    label = TERRAIN if street.grass else VEGETATION
    grass = Paint(label, stage.colour(colours.grass), GRASS, 2 * rough, 2.0, ground=True)
    for side in (-1, 1):
        strip(stage, plan.walk_end(side), side * 300, grass if stage.chance(0.5) else walk)
        strip(stage, plan.walk_start(side), plan.walk_end(side), walk)
        if plan.verge[side > 0]:
            strip(stage, plan.curb(side), plan.walk_start(side), grass)
    strip(stage, plan.curb(-1), plan.curb(1), road)
    for near, far in plan.crossings:
        flat(stage, -80, 80, near, far, road)
    for side in (-1, 1):
        _curb(stage, plan, side, walk)
    _wear(stage, plan, road)
    _markings(stage, plan, road._replace(texture=GRAIN, colour=stage.colour(colours.marking)))


def _curb(stage: Stage, plan: Plan, side: int, walk: Paint) -> None:
    """The raised edge of the sidewalk, interrupted by side streets."""
    edge, near = plan.curb(side), NEAR
    paint = walk.lit(stage.pick((0.55, 1.5)))
    for start, end in (*plan.crossings, (FAR, FAR)):
        if start > near:
            strip(stage, edge, edge + side * 0.22, paint, near, start)
        near = max(near, end)


def _wear(stage: Stage, plan: Plan, road: Paint) -> None:
    """Patches, seams and manholes."""
    left, right = plan.curb(-1), plan.curb(1)
    for _ in range(stage.rng.randint(1, 6)):
        x, z = stage.pick((left, right - 1)), stage.pick((3, 40))
        width, length = stage.pick((0.4, 2.5)), stage.pick((0.6, 8.0))
        flat(stage, x, min(x + width, right), z, z + length, road.lit(stage.pick((0.7, 1.25))))


def _markings(stage: Stage, plan: Plan, paint: Paint) -> None:
    """Centre line, lane lines, parking line and zebra crossings; all of them are road."""
    dashed, worn = stage.chance(0.7), paint.lit(stage.pick((0.75, 1.0)))
    if stage.chance(0.85):
        _line(stage, plan, 0.0, worn, dashed)
    for lane in range(1, plan.lanes):
        for side in (-1, 1):
            _line(stage, plan, side * lane * plan.lane, worn, True)
    for side in (-1, 1):
        if stage.chance(0.6):
            _line(stage, plan, side * plan.lanes * plan.lane, worn, stage.chance(0.4))
    for near, _ in plan.crossings:
        if stage.chance(0.7) and near > 6:
            _zebra(stage, plan, near - 4.2, worn)


def _line(stage: Stage, plan: Plan, x: float, paint: Paint, dashed: bool) -> None:
    """A line along the street, interrupted by side streets."""
    dash, gap = (stage.pick((2.0, 4.0)), stage.pick((3.0, 6.0))) if dashed else (10.0, 0.0)
    z = stage.pick((0.8, 5.0)) if dashed else NEAR
    while z < 110:
        if not plan.crossed(z, z + dash):
            flat(stage, x - 0.09, x + 0.09, z, z + dash, paint)
        z += dash + gap


def _zebra(stage: Stage, plan: Plan, near: float, paint: Paint) -> None:
    """Bars along the street from curb to curb."""
    x = plan.curb(-1) + 0.4
    while x + 0.5 < plan.curb(1):
        flat(stage, x, x + 0.5, near, near + 3.0, paint)
        x += 1.0
