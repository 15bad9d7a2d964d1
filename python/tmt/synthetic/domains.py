"""The domains. Each is styled after the dataset in whose layout it is written, and shares no pixel with it.

Within a domain a material's colours are mostly, not always, of its usual boxes; what is usual differs between the
domains, so that a model which trusts colour is misled by the other one.
"""

from tmt.synthetic.domain import Colours, Domain, Optics, Population, Street, Swatch, Weather

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
TIMBER = Swatch((20, 40), (0.25, 0.5), (0.22, 0.45))
TROPICAL = Swatch((90, 140), (0.5, 0.8), (0.2, 0.45))
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

BDD100K = Domain(
    name="bdd100k",
    optics=Optics(
        focal=(0.8, 1.05), horizon=(0.46, 0.58), height=(1.2, 1.45), ahead=(0.38, 0.62), bend=8e-4, climb=5e-4,
        blur=(0.45, 0.95), noise=(0.01, 0.03), vignette=(0.1, 0.35), exposure=(-0.2, 0.55), contrast=(0.85, 1.25),
        saturation=(0.45, 0.9), cast=0.07, hue=6, bonnet=0.55, side=(1.2, 5.0), windscreen=1.0, jpeg=(55.0, 82.0),
    ),
    weather=Weather(
        skies=(
            ((0.4, 0.58, 0.82), (0.82, 0.88, 0.93)), ((0.55, 0.68, 0.84), (0.97, 0.96, 0.92)),
            ((0.75, 0.78, 0.82), (0.9, 0.91, 0.92)), ((0.92, 0.94, 0.96), (0.99, 0.99, 0.98)),
        ),
        clouds=(0.03, 0.15), haze=(0.002, 0.009), sun=(0.0, 1.0), shadow=(0.35, 0.6), shadow_length=(0.4, 1.6),
        night=0.3, dusk=0.16, rain=0.18, snow=0.04,
    ),
    colours=Colours(
        road=(GREYS, GREYS, CONCRETE, ASPHALT),
        sidewalk=(Swatch((25, 55), (0.02, 0.14), (0.5, 0.72)), CONCRETE, GREYS),
        building=(BRICKS, BRICKS, EARTHS, GREYS, GREYS, BLUES, DARKS, PALES),
        wall=(CONCRETE, CONCRETE, EARTHS, BRICKS),
        fence=(GREYS, GREYS, DARKS, EARTHS),
        pole=(TIMBER, GREYS, GREYS, DARKS),
        sign=(GREEN, RED, AMBER, PALES, BLUE),
        leaf=(SHADE_LEAF, SHADE_LEAF, FOLIAGE, AUTUMN, AUTUMN),
        grass=(Swatch((55, 85), (0.25, 0.5), (0.35, 0.6)), DRY_GRASS, EARTHS),
        vehicle=(PALES, PALES, GREYS, GREYS, DARKS, DARKS, Swatch((350, 370), (0.6, 0.85), (0.3, 0.6)), BLUES),
        cloth=(DARKS, DARKS, GREYS, BLUES, VIVID),
        light=(Swatch((42, 54), (0.65, 0.9), (0.5, 0.8)), DARKS, DARKS),
        marking=(Swatch((42, 50), (0.55, 0.85), (0.75, 0.92)), Swatch((42, 50), (0.55, 0.85), (0.75, 0.92)), PALES),
    ),
    street=Street(
        lanes=(2, 3), lane=(3.4, 3.9), parking=0.55, sidewalk=(2.0, 4.0), verge=0.3,
        lots=(0.44, 0.14, 0.18, 0.12, 0.12), lot=(9, 24), setback=(0.0, 3.0), floors=(2, 8), floor=(3.0, 4.2),
        window=(1.8, 3.6), brick=0.4, gable=0.12, shop=0.5, ribbon=0.25, texture=(0.04, 0.13), tiles=0.35, palms=0.1,
        conifers=0.05,
    ),
    population=Population(
        parked=0.75, cars=(3, 7), large=(1, 2), persons=(5, 11), riders=(1, 3), bicycles=(3, 7), motorcycles=(0, 2),
        poles=(15, 30), trees=(10, 26), signs=(2, 6), lights=(2, 6), clutter=(0, 3),
        vehicle_types=(0.35, 0.05, 0.2, 0.15, 0.25), far=18, plates=False, hanging_lights=0.75, round_signs=0.15,
    ),
)  # fmt: skip

MAPILLARY = Domain(
    name="mapillary",
    optics=Optics(
        focal=(0.6, 1.35), horizon=(0.3, 0.62), height=(1.0, 2.7), ahead=(0.25, 0.75), bend=1.8e-3, climb=1.2e-3,
        blur=(0.0, 0.4), noise=(0.0, 0.025), vignette=(0.0, 0.4), exposure=(-0.4, 0.4), contrast=(0.85, 1.4),
        saturation=(0.6, 1.4), cast=0.09, hue=7, bonnet=0.2, side=(-1.0, 5.5), distortion=(-0.06, 0.22), mirror=0.4,
        windscreen=0.25, jpeg=(70.0, 95.0),
    ),
    weather=Weather(
        skies=(
            ((0.2, 0.45, 0.85), (0.65, 0.8, 0.93)), ((0.35, 0.6, 0.9), (0.9, 0.93, 0.95)),
            ((0.7, 0.72, 0.75), (0.85, 0.85, 0.85)), ((0.5, 0.55, 0.62), (0.75, 0.77, 0.78)),
            ((0.85, 0.82, 0.72), (0.93, 0.88, 0.76)), ((0.95, 0.96, 0.97), (0.99, 0.99, 0.99)),
            ((0.45, 0.5, 0.7), (0.97, 0.78, 0.6)),
        ),
        clouds=(0.02, 0.22), haze=(0.0005, 0.02), sun=(0.0, 1.0), shadow=(0.25, 0.65), shadow_length=(0.2, 2.2),
        night=0.04, dusk=0.12, rain=0.1, snow=0.16,
    ),
    colours=Colours(
        road=(GREYS, ASPHALT, CONCRETE, EARTHS, Swatch((15, 35), (0.3, 0.55), (0.4, 0.65))),
        sidewalk=(GREYS, CONCRETE, BRICKS, EARTHS, Swatch((15, 35), (0.2, 0.4), (0.5, 0.75)), PALES),
        building=(PALES, EARTHS, BRICKS, GREYS, BLUES, VIVID, Swatch((20, 60), (0.3, 0.65), (0.6, 0.9)), DARKS),
        wall=(PALES, BRICKS, GREYS, EARTHS, VIVID),
        fence=(GREYS, DARKS, PALES, VIVID, Swatch((20, 40), (0.3, 0.6), (0.25, 0.5))),
        pole=(GREYS, PALES, DARKS, TIMBER, Swatch((100, 160), (0.2, 0.5), (0.2, 0.4))),
        sign=(RED, BLUE, GREEN, AMBER, PALES),
        leaf=(FOLIAGE, SHADE_LEAF, AUTUMN, TROPICAL, Swatch((55, 85), (0.4, 0.8), (0.35, 0.65))),
        grass=(LAWN, DRY_GRASS, EARTHS, Swatch((10, 25), (0.45, 0.7), (0.4, 0.6)), FOLIAGE),
        vehicle=(GREYS, DARKS, PALES, PALES, VIVID, VIVID, BLUES),
        cloth=(DARKS, VIVID, PALES, BLUES, EARTHS),
        light=(DARKS, Swatch((42, 52), (0.6, 0.9), (0.5, 0.85)), GREEN),
        marking=(PALES, PALES, Swatch((42, 50), (0.5, 0.8), (0.7, 0.9))),
    ),
    street=Street(
        lanes=(1, 3), lane=(2.6, 3.9), parking=0.4, sidewalk=(1.2, 6.0), verge=0.5,
        lots=(0.36, 0.16, 0.18, 0.2, 0.1), lot=(5, 30), setback=(0.0, 7.0), floors=(1, 9), floor=(2.6, 4.4),
        window=(1.5, 4.5), brick=0.3, gable=0.45, shop=0.4, ribbon=0.25, texture=(0.02, 0.18), tiles=0.5, palms=0.22,
        conifers=0.2,
    ),
    population=Population(
        parked=0.5, cars=(1, 6), large=(0, 2), persons=(5, 15), riders=(1, 4), bicycles=(1, 6), motorcycles=(1, 4),
        poles=(9, 32), trees=(6, 32), signs=(2, 8), lights=(1, 5), clutter=(0, 6),
        vehicle_types=(0.3, 0.3, 0.15, 0.15, 0.1), far=19, plates=False, hanging_lights=0.4, round_signs=0.5,
    ),
)  # fmt: skip

SYNTHIA = Domain(
    name="synthia",
    optics=Optics(
        focal=(0.55, 0.75), horizon=(0.06, 0.24), height=(4.0, 10.0), ahead=(0.3, 0.7), bend=6e-4, climb=1e-4,
        blur=(0.0, 0.1), noise=(0.0, 0.002), vignette=(0.0, 0.05), exposure=(-0.15, 0.15), contrast=(1.1, 1.35),
        saturation=(1.15, 1.6), cast=0.03, hue=4, bonnet=0.0, side=(-4.0, 4.0),
    ),
    weather=Weather(
        skies=(
            ((0.3, 0.55, 0.95), (0.6, 0.8, 1.0)), ((0.35, 0.6, 0.98), (0.75, 0.88, 1.0)),
            ((0.5, 0.55, 0.65), (0.85, 0.82, 0.85)), ((0.75, 0.55, 0.55), (1.0, 0.8, 0.5)),
        ),
        clouds=(0.0, 0.05), haze=(0.0, 0.002), sun=(0.5, 1.0), shadow=(0.45, 0.7), shadow_length=(0.4, 1.4),
    ),
    colours=Colours(
        road=(ASPHALT, DARKS, GREYS, Swatch((250, 290), (0.06, 0.18), (0.3, 0.5))),
        sidewalk=(Swatch((20, 45), (0.2, 0.42), (0.5, 0.8)), Swatch((200, 230), (0.1, 0.25), (0.5, 0.7)), PALES, GREYS),
        building=(VIVID, VIVID, Swatch((20, 50), (0.3, 0.6), (0.6, 0.95)), BLUES, BRICKS, PALES, GREYS),
        wall=(VIVID, BRICKS, Swatch((20, 50), (0.2, 0.5), (0.5, 0.8)), PALES),
        fence=(VIVID, BLUES, Swatch((90, 150), (0.3, 0.6), (0.3, 0.5)), PALES),
        pole=(VIVID, DARKS, BLUES, GREYS),
        sign=(RED, BLUE, AMBER, PALES),
        leaf=(Swatch((85, 135), (0.6, 0.9), (0.4, 0.7)), Swatch((60, 90), (0.6, 0.9), (0.5, 0.8)), AUTUMN, FOLIAGE),
        grass=(Swatch((85, 120), (0.6, 0.9), (0.45, 0.7)), LAWN, EARTHS),
        vehicle=(VIVID, VIVID, VIVID, PALES, DARKS),
        cloth=(VIVID, VIVID, PALES, DARKS),
        light=(DARKS, GREEN, Swatch((42, 52), (0.7, 0.95), (0.6, 0.9))),
        marking=(PALES,),
    ),
    street=Street(
        lanes=(1, 2), lane=(3.2, 3.8), parking=0.6, sidewalk=(3.5, 6.5), verge=0.3,
        lots=(0.36, 0.2, 0.22, 0.14, 0.08), lot=(10, 22), setback=(0.0, 2.0), floors=(2, 7), floor=(3.2, 4.2),
        window=(2.2, 4.0), brick=0.15, gable=0.35, shop=0.35, ribbon=0.3, texture=(0.0, 0.035), tiles=0.7, palms=0.1,
        conifers=0.3, grass=False,
    ),
    population=Population(
        parked=0.55, cars=(3, 7), large=(1, 2), persons=(12, 22), riders=(3, 6), bicycles=(4, 9), motorcycles=(2, 5),
        poles=(12, 22), trees=(12, 26), signs=(4, 10), lights=(3, 8), clutter=(0, 4),
        vehicle_types=(0.35, 0.3, 0.2, 0.15, 0.0), far=36, plates=False, hanging_lights=0.3, round_signs=0.6,
        trucks=False, nearest=9.0, reach=60.0,
    ),
)  # fmt: skip

DOMAINS = {domain.name: domain for domain in (CITYSCAPES, BDD100K, MAPILLARY, GTAV, SYNTHIA)}
