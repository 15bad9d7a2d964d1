"""The domains. Each is styled after the dataset in whose layout it is written, and shares no pixel with it.

Within a domain a material's colours are mostly, not always, of its usual boxes; what is usual differs between the
domains, so that a model which trusts colour is misled by the other one.
"""

from tmt.data.synthetic.domain import Colours, Domain, Optics, Population, Street, Swatch, Weather

ANY = (0, 360)

GREYS = Swatch(ANY, (0.0, 0.1), (0.25, 0.7))
EARTHS = Swatch((15, 50), (0.15, 0.45), (0.35, 0.75))
BLUES = Swatch((195, 235), (0.1, 0.35), (0.4, 0.8))
VIVID = Swatch(ANY, (0.5, 0.9), (0.4, 0.9))
DARKS = Swatch(ANY, (0.0, 0.4), (0.06, 0.26))
PALES = Swatch(ANY, (0.0, 0.1), (0.7, 0.95))
BRICKS = Swatch((5, 25), (0.35, 0.6), (0.35, 0.6))
ASPHALT = Swatch((200, 250), (0.05, 0.15), (0.2, 0.36))
CONCRETE = Swatch((30, 80), (0.0, 0.08), (0.45, 0.62))
FOLIAGE = Swatch((80, 120), (0.4, 0.7), (0.3, 0.55))
SHADE_LEAF = Swatch((70, 140), (0.2, 0.45), (0.14, 0.3))
AUTUMN = Swatch((20, 60), (0.3, 0.65), (0.25, 0.6))
DRY_GRASS = Swatch((38, 52), (0.35, 0.55), (0.55, 0.8))
LAWN = Swatch((75, 110), (0.4, 0.65), (0.4, 0.6))
RED = Swatch((350, 370), (0.7, 0.95), (0.6, 0.85))
BLUE = Swatch((210, 225), (0.6, 0.9), (0.45, 0.8))
GREEN = Swatch((140, 165), (0.6, 0.9), (0.35, 0.6))
AMBER = Swatch((42, 52), (0.7, 0.95), (0.7, 0.95))

CITYSCAPES = Domain(
    name="cityscapes",
    optics=Optics(
        focal=(1.05, 1.25), horizon=(0.36, 0.46), height=(1.4, 1.8), ahead=(0.4, 0.6), bend=9e-4, climb=2e-4,
        blur=(0.3, 0.6), noise=(0.008, 0.02), vignette=(0.05, 0.25), exposure=(-0.25, 0.25), contrast=(0.75, 1.0),
        saturation=(0.45, 0.8), cast=0.05, hue=6, bonnet=0.5,
    ),
    weather=Weather(
        skies=(
            ((0.8, 0.83, 0.86), (0.95, 0.95, 0.95)), ((0.7, 0.74, 0.78), (0.87, 0.88, 0.88)),
            ((0.66, 0.66, 0.66), (0.8, 0.78, 0.75)), ((0.6, 0.72, 0.84), (0.88, 0.92, 0.94)),
            ((0.74, 0.76, 0.7), (0.85, 0.87, 0.8)),
        ),
        clouds=(0.02, 0.1), haze=(0.002, 0.01), sun=(0.0, 0.5), shadow=(0.3, 0.5), shadow_length=(0.3, 0.8),
    ),
    colours=Colours(
        road=(CONCRETE, CONCRETE, CONCRETE, GREYS),
        sidewalk=(Swatch((0, 30), (0.2, 0.4), (0.28, 0.5)), Swatch((0, 30), (0.2, 0.4), (0.28, 0.5)), ASPHALT, GREYS),
        building=(PALES, PALES, BLUES, Swatch((40, 60), (0.1, 0.3), (0.55, 0.8)), GREYS, DARKS),
        wall=(BRICKS, BRICKS, GREYS),
        fence=(Swatch((90, 150), (0.2, 0.5), (0.25, 0.4)), Swatch((90, 150), (0.2, 0.5), (0.25, 0.4)), GREYS),
        pole=(Swatch((180, 220), (0.0, 0.08), (0.5, 0.7)), Swatch((180, 220), (0.0, 0.08), (0.5, 0.7)), DARKS),
        sign=(BLUE, RED, RED, PALES, AMBER),
        leaf=(SHADE_LEAF, SHADE_LEAF, SHADE_LEAF, FOLIAGE, AUTUMN),
        grass=(LAWN, LAWN, EARTHS),
        vehicle=(GREYS, DARKS, DARKS, PALES, VIVID, BLUES),
        cloth=(DARKS, DARKS, DARKS, VIVID, BLUES),
        light=(DARKS, Swatch((90, 160), (0.1, 0.4), (0.1, 0.25))),
        marking=(Swatch(ANY, (0.0, 0.05), (0.8, 0.95)),),
    ),
    street=Street(
        lanes=(1, 1), lane=(3.0, 3.6), parking=0.4, sidewalk=(3.0, 5.5), verge=0.45,
        lots=(0.38, 0.22, 0.22, 0.13, 0.05), lot=(8, 18), setback=(0.0, 1.2), floors=(3, 6), floor=(2.9, 3.6),
        window=(1.8, 3.0), brick=0.1, gable=0.5, shop=0.4, ribbon=0.1, texture=(0.04, 0.12), tiles=0.9, palms=0.0,
        conifers=0.15,
    ),
    population=Population(
        parked=0.55, cars=(1, 3), large=(0, 2), persons=(7, 13), riders=(1, 3), bicycles=(2, 6), motorcycles=(0, 0),
        poles=(13, 24), trees=(10, 28), signs=(2, 6), lights=(1, 4), clutter=(0, 3),
        vehicle_types=(0.3, 0.35, 0.2, 0.15, 0.0), far=17, plates=False, hanging_lights=0.1, round_signs=0.8,
    ),
)  # fmt: skip

GTAV = Domain(
    name="gtav",
    optics=Optics(
        focal=(0.78, 0.95), horizon=(0.42, 0.52), height=(1.8, 2.3), ahead=(0.35, 0.65), bend=1.2e-3, climb=4e-4,
        blur=(0.0, 0.2), noise=(0.0, 0.006), vignette=(0.0, 0.15), exposure=(-0.2, 0.2), contrast=(1.05, 1.35),
        saturation=(1.0, 1.4), cast=0.05, hue=6, bonnet=0.05,
    ),
    weather=Weather(
        skies=(
            ((0.25, 0.5, 0.85), (0.7, 0.82, 0.92)), ((0.25, 0.5, 0.85), (0.6, 0.78, 0.92)),
            ((0.35, 0.58, 0.85), (0.95, 0.85, 0.7)), ((0.55, 0.42, 0.55), (0.98, 0.66, 0.4)),
            ((0.6, 0.68, 0.78), (0.85, 0.86, 0.86)),
        ),
        clouds=(0.03, 0.16), haze=(0.001, 0.005), sun=(0.3, 1.0), shadow=(0.35, 0.6), shadow_length=(0.4, 2.0),
    ),
    colours=Colours(
        road=(ASPHALT, ASPHALT, ASPHALT, GREYS),
        sidewalk=(Swatch((30, 60), (0.0, 0.12), (0.62, 0.85)), Swatch((30, 60), (0.0, 0.12), (0.62, 0.85)), GREYS),
        building=(EARTHS, EARTHS, EARTHS, Swatch((5, 40), (0.3, 0.6), (0.4, 0.8)), PALES, VIVID, BLUES),
        wall=(PALES, PALES, GREYS, Swatch((40, 60), (0.1, 0.3), (0.6, 0.8))),
        fence=(Swatch((20, 40), (0.35, 0.6), (0.25, 0.5)), Swatch((20, 40), (0.35, 0.6), (0.25, 0.5)), PALES),
        pole=(DARKS, DARKS, Swatch((20, 40), (0.2, 0.5), (0.2, 0.4)), GREYS),
        sign=(GREEN, GREEN, RED, PALES, AMBER),
        leaf=(FOLIAGE, FOLIAGE, FOLIAGE, Swatch((55, 80), (0.5, 0.8), (0.4, 0.65)), AUTUMN),
        grass=(DRY_GRASS, DRY_GRASS, LAWN),
        vehicle=(VIVID, VIVID, VIVID, DARKS, PALES),
        cloth=(VIVID, VIVID, VIVID, DARKS),
        light=(Swatch((40, 52), (0.7, 0.9), (0.6, 0.85)), Swatch((40, 52), (0.7, 0.9), (0.6, 0.85)), DARKS),
        marking=(Swatch(ANY, (0.0, 0.1), (0.75, 0.95)), Swatch((42, 50), (0.5, 0.8), (0.75, 0.9))),
    ),
    street=Street(
        lanes=(1, 2), lane=(3.4, 3.8), parking=0.3, sidewalk=(2.6, 5.0), verge=0.45,
        lots=(0.34, 0.22, 0.22, 0.16, 0.06), lot=(10, 26), setback=(0.0, 4.0), floors=(1, 4), floor=(3.2, 4.4),
        window=(2.4, 4.5), brick=0.25, gable=0.15, shop=0.4, ribbon=0.45, texture=(0.05, 0.14), tiles=0.2, palms=0.5,
        conifers=0.0,
    ),
    population=Population(
        parked=0.45, cars=(2, 4), large=(1, 2), persons=(7, 13), riders=(1, 3), bicycles=(2, 6), motorcycles=(0, 0),
        poles=(14, 26), trees=(9, 24), signs=(2, 6), lights=(1, 5), clutter=(0, 4),
        vehicle_types=(0.35, 0.05, 0.25, 0.1, 0.25), far=16, plates=True, hanging_lights=0.7, round_signs=0.1,
    ),
)  # fmt: skip

DOMAINS = {domain.name: domain for domain in (CITYSCAPES, GTAV)}
