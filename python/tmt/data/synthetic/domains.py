"""The domains. Each is styled after the dataset in whose layout it is written, and shares no pixel with it."""

from tmt.data.synthetic.domain import Colours, Domain, Optics, Population, Street, Swatch, Weather

ANY = (0, 360)

# Muted and bright boxes that most materials share.
GREYS = Swatch(ANY, (0.0, 0.1), (0.25, 0.7))
EARTHS = Swatch((15, 50), (0.1, 0.4), (0.3, 0.75))
BLUES = Swatch((195, 235), (0.05, 0.3), (0.35, 0.8))
GREENS = Swatch((70, 150), (0.05, 0.35), (0.25, 0.65))
VIVID = Swatch(ANY, (0.45, 0.9), (0.35, 0.9))
DARKS = Swatch(ANY, (0.0, 0.4), (0.06, 0.28))
PALES = Swatch(ANY, (0.0, 0.1), (0.7, 0.95))
ASPHALT = Swatch((200, 260), (0.0, 0.12), (0.28, 0.45))
FOLIAGE = Swatch((75, 125), (0.3, 0.6), (0.2, 0.5))
AUTUMN = Swatch((20, 60), (0.3, 0.65), (0.25, 0.6))
RED = Swatch((350, 370), (0.7, 0.95), (0.6, 0.85))
BLUE = Swatch((210, 225), (0.6, 0.9), (0.45, 0.8))
AMBER = Swatch((42, 52), (0.7, 0.95), (0.7, 0.95))

CITYSCAPES = Domain(
    name="cityscapes",
    optics=Optics(
        focal=(1.05, 1.25), horizon=(0.36, 0.46), height=(1.5, 1.9), ahead=(0.4, 0.6), bend=9e-4, climb=2e-4,
        blur=(0.3, 0.6), noise=(0.008, 0.02), vignette=(0.05, 0.25), exposure=(-0.25, 0.25), contrast=(0.7, 1.0),
        saturation=(0.45, 0.85), cast=0.05, hue=6, bonnet=0.5,
    ),
    weather=Weather(
        skies=(
            ((0.8, 0.83, 0.86), (0.95, 0.95, 0.95)), ((0.66, 0.7, 0.76), (0.85, 0.86, 0.86)),
            ((0.6, 0.6, 0.6), (0.75, 0.73, 0.7)), ((0.5, 0.66, 0.82), (0.85, 0.9, 0.93)),
            ((0.7, 0.72, 0.66), (0.82, 0.84, 0.76)),
        ),
        clouds=(0.02, 0.1), haze=(0.002, 0.01), sun=(0.0, 0.5), shadow=(0.3, 0.5), shadow_length=(0.3, 0.8),
    ),
    colours=Colours(
        road=(ASPHALT, ASPHALT, ASPHALT, Swatch((20, 50), (0.05, 0.15), (0.3, 0.5))),
        sidewalk=(GREYS, Swatch((350, 390), (0.1, 0.3), (0.5, 0.75)), Swatch((350, 390), (0.1, 0.3), (0.5, 0.75)), PALES),
        building=(GREYS, EARTHS, EARTHS, EARTHS, BLUES, PALES, DARKS),
        wall=(Swatch((5, 35), (0.3, 0.55), (0.35, 0.65)), Swatch((5, 35), (0.3, 0.55), (0.35, 0.65)), GREYS),
        fence=(GREENS, GREENS, Swatch((80, 150), (0.2, 0.5), (0.3, 0.5)), GREYS),
        pole=(GREYS, DARKS, Swatch((80, 160), (0.1, 0.3), (0.2, 0.45))),
        sign=(BLUE, RED, PALES, AMBER),
        leaf=(FOLIAGE, FOLIAGE, FOLIAGE, FOLIAGE, AUTUMN),
        grass=(Swatch((55, 90), (0.4, 0.65), (0.5, 0.7)), Swatch((55, 90), (0.4, 0.65), (0.5, 0.7)), EARTHS),
        vehicle=(GREYS, DARKS, DARKS, PALES, VIVID, BLUES),
        cloth=(DARKS, DARKS, DARKS, VIVID, BLUES),
        light=(DARKS, Swatch((90, 160), (0.1, 0.4), (0.1, 0.25))),
        marking=(Swatch(ANY, (0.0, 0.05), (0.75, 0.95)),),
    ),
    street=Street(
        lanes=(1, 1), lane=(3.0, 3.6), parking=0.4, sidewalk=(3.0, 5.5), verge=0.45,
        lots=(0.42, 0.2, 0.2, 0.13, 0.05), lot=(8, 18), setback=(0.0, 1.2), floors=(3, 6), floor=(2.9, 3.6),
        window=(1.8, 3.0), brick=0.3, gable=0.5, shop=0.4, ribbon=0.1, texture=(0.04, 0.12), tiles=0.8, palms=0.0,
        conifers=0.15,
    ),
    population=Population(
        parked=0.55, cars=(1, 3), large=(0, 2), persons=(7, 13), riders=(1, 3), bicycles=(2, 6), motorcycles=(0, 0),
        poles=(10, 20), trees=(10, 28), signs=(2, 6), lights=(1, 4), clutter=(0, 3),
        vehicle_types=(0.3, 0.35, 0.2, 0.15, 0.0), far=16, plates=False, hanging_lights=0.1, round_signs=0.75,
    ),
)  # fmt: skip

GTAV = Domain(
    name="gtav",
    optics=Optics(
        focal=(0.78, 0.95), horizon=(0.44, 0.56), height=(2.0, 2.7), ahead=(0.35, 0.65), bend=1.2e-3, climb=4e-4,
        blur=(0.0, 0.25), noise=(0.0, 0.008), vignette=(0.0, 0.15), exposure=(-0.2, 0.2), contrast=(1.0, 1.35),
        saturation=(0.9, 1.4), cast=0.05, hue=6, bonnet=0.05,
    ),
    weather=Weather(
        skies=(
            ((0.25, 0.5, 0.85), (0.7, 0.82, 0.92)), ((0.35, 0.58, 0.85), (0.95, 0.85, 0.7)),
            ((0.55, 0.42, 0.55), (0.98, 0.66, 0.4)), ((0.85, 0.87, 0.88), (0.95, 0.93, 0.9)),
            ((0.45, 0.5, 0.6), (0.72, 0.7, 0.7)),
        ),
        clouds=(0.03, 0.16), haze=(0.001, 0.006), sun=(0.3, 1.0), shadow=(0.4, 0.65), shadow_length=(0.4, 2.0),
    ),
    colours=Colours(
        road=(ASPHALT, ASPHALT, ASPHALT, Swatch((20, 50), (0.05, 0.25), (0.3, 0.55))),
        sidewalk=(GREYS, PALES, PALES, PALES),
        building=(EARTHS, EARTHS, EARTHS, PALES, BLUES, VIVID, GREYS),
        wall=(Swatch((5, 25), (0.4, 0.65), (0.4, 0.65)), Swatch((5, 25), (0.4, 0.65), (0.4, 0.65)), GREYS),
        fence=(PALES, PALES, EARTHS),
        pole=(GREYS, EARTHS, DARKS, PALES),
        sign=(Swatch((140, 165), (0.6, 0.9), (0.35, 0.6)), RED, PALES, AMBER),
        leaf=(FOLIAGE, FOLIAGE, FOLIAGE, Swatch((60, 110), (0.4, 0.8), (0.3, 0.6)), AUTUMN),
        grass=(Swatch((60, 105), (0.4, 0.7), (0.45, 0.7)), Swatch((35, 50), (0.3, 0.5), (0.55, 0.8)), EARTHS),
        vehicle=(VIVID, VIVID, GREYS, DARKS, PALES, EARTHS),
        cloth=(VIVID, VIVID, VIVID, DARKS),
        light=(Swatch((40, 52), (0.6, 0.9), (0.5, 0.8)), DARKS),
        marking=(Swatch(ANY, (0.0, 0.1), (0.75, 0.95)), Swatch((42, 50), (0.5, 0.8), (0.75, 0.9))),
    ),
    street=Street(
        lanes=(1, 2), lane=(3.4, 3.8), parking=0.3, sidewalk=(2.6, 5.0), verge=0.45,
        lots=(0.36, 0.21, 0.21, 0.16, 0.06), lot=(10, 26), setback=(0.0, 4.0), floors=(1, 4), floor=(3.2, 4.4),
        window=(2.4, 4.5), brick=0.2, gable=0.15, shop=0.4, ribbon=0.45, texture=(0.05, 0.14), tiles=0.35, palms=0.45,
        conifers=0.05,
    ),
    population=Population(
        parked=0.45, cars=(2, 5), large=(0, 2), persons=(7, 13), riders=(1, 3), bicycles=(2, 6), motorcycles=(0, 0),
        poles=(12, 26), trees=(9, 24), signs=(2, 6), lights=(1, 5), clutter=(0, 4),
        vehicle_types=(0.35, 0.1, 0.25, 0.1, 0.2), far=15, plates=True, hanging_lights=0.6, round_signs=0.2,
    ),
)  # fmt: skip

DOMAINS = {domain.name: domain for domain in (CITYSCAPES, GTAV)}
