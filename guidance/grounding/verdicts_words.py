"""What the rules for verdicts know beyond WordNet, as data."""

from __future__ import annotations

from pathlib import Path

DATA = Path(__file__).parent / "data" / "verdicts_words.txt"


def _set(text: str) -> frozenset[str]:
    return frozenset(part.strip() for line in text.strip().splitlines() for part in line.split(",") if part.strip())


def _section(name: str) -> list[str]:
    """Lines of a section of the data file, comments left out."""
    body = DATA.read_text(encoding="utf-8").split(f"[{name}]\n", 1)[1].split("\n[", 1)[0]
    return [line for line in body.splitlines() if line.strip() and not line.startswith("#")]


def _table(name: str) -> dict[str, frozenset[str]]:
    """A section of lines "name, name: cell, cell" by name; a name may have several lines."""
    out: dict[str, frozenset[str]] = {}
    for line in _section(name):
        names, cells = line.split(":")
        for one in _set(names):
            out[one] = out.get(one, frozenset()) | _set(cells)
    return out


# Names for the same thing in a picture.
SAME = tuple(_set(line) for line in _section("same"))
# Kinds that WordNet does not have, or puts elsewhere: a kitten is a young mammal there, and no cat.
KIND_OF = _table("kinds")
# Names so wide that they say little: what they stand for may be anything.
TOO_WIDE = _set(
    """
object, thing, item, artifact, product, device, equipment, structure, material, substance, whole, unit, entity,
article, matter, body, organism, group, collection, construction, component, part, piece, stuff, instrumentation,
ware, covering, material, element, shape, form, figure, gadget, gear, utensil, accessory, tool, machine, mass
"""
)
# Compounds that are not what their last word says.
MISNAMED = _set(
    """
hot dog, corn dog, prairie dog, sea horse, sea lion, sea cow, guinea pig, computer mouse, bird house, dog house,
book worm, bus stop, traffic jam, paper clip, video clip, orange juice, power plant, steam plant, tank top, crane fly,
ice cream cone, traffic cone, pine cone, head light, tail light, star fish, jelly fish, rocking horse, saw horse,
monkey wrench, teddy, glass house, bulldog clip, butterfly net, dragon fruit, fruit bat, baseball bat, cricket bat
"""
)
# Tags of what a picture is, not of what is in it.
PICTURE = _set(
    """
photo, picture, image, photograph, photography, painting, art, artwork, drawing, illustration, sketch, portrait,
close-up, close up, closeup, view, scene, scenery, render, rendering, 3d rendering, cg rendering, 3d cg rendering,
cartoon, cartoon style, anime, animation, movie, film, screenshot, poster, wallpaper, fine art, black and white,
watercolor painting, oil painting, cover, album cover, book cover, graphic, graphic design, clip art, clipart, vector,
collage, still life, selfie, macro, panorama, aerial view, silhouette, pattern, texture, design, style, color,
stock photo, id photo, team photo, bird view, birdseye view, snapshot, video, game, fiction, illustrator, concept art,
angle, front view, side view, profile, pose, composition, reflection
"""
)
# Verbs that are tags, beside those that the lexicon knows for verbs.
ACTIONS = _set(
    """
jump, surf, ride, pose, hug, drive, race, dance, swim, rest, sport, fly, play, stand, sit, walk, run, lay, lie, eat,
drink, look, smile, stare, hold, carry, wear, catch, throw, kick, hit, swing, climb, hike, ski, skate, sail, cook, cut,
pour, push, pull, chase, fight, read, write, talk, laugh, cry, sing, sleep, work, travel, perch, graze, hang, lean,
float, dive, fall, park, attach, decorate, cover, fill, connect, prepare, take, show, display, point, reach, feed, pet,
kiss, lick, bite, blow, burn, shine, glow, bloom, gather, celebrate, perform, exercise, train, lift, bend, crouch,
kneel, stretch, balance, skateboard, snowboard, bake, paint, draw, squat, cheer, wave hand, illuminate, crawl
"""
)
# Things that verbs hide: these are objects although the words are verbs more often.
NO_ACTIONS = _set(
    """
sail, watch, train, paint, saw, park, display, dish, wave, pet, skateboard, snowboard, point, bear, duck, seal, crane,
bat, fish, swallow, parrot, badger, hound, hawk, ram, bug, worm, snail, leech, bolt, hammer, drill, mirror, ship, shed,
cross, file, forge, hamper, lock, loom, match, monitor, swab, register, sink, wrench, sprout, tailor
"""
)
QUALITIES = _set(
    """
red, green, blue, yellow, orange, purple, pink, black, white, gray, grey, brown, gold, golden, silver, beige, colorful,
dark, bright, blonde, wooden, cute, beautiful, happy, sad, old, young, small, large, big, tall, wet, dry, empty, full,
open, closed, crowded, snowy, sunny, cloudy, rainy, foggy, blurry, sunlit, fluffy, furry, striped, vintage, modern,
glowing, shiny, adorable, attractive, stylish, rustic, abstract, medieval, fantasy, cool, hot, cold, warm, neon, spotted
"""
)
# Stuff and surroundings that may be in nearly any picture.
STUFF = _set(
    """
background, floor, wall, sky, grass, table, room, ground, tree, light, shadow, street, cloud, road, water, sun, plant,
leaf, branch, rock, stone, dirt, sand, soil, mud, field, hill, mountain, horizon, fog, mist, smoke, dust,
window, door, curtain, ceiling, carpet, shelf, corner, building, house, fence, path, pavement, sidewalk, surface,
counter, counter top, tabletop, desk, lamp, sunlight, darkness, lighting, reflection, night, day, sunset, sunrise,
evening, dusk, dawn, morning, wood, brick, concrete, tile, backdrop, foreground, landscape, bush, scenery, home,
environment, nature, stage, nightfall, clear sky, blue sky, brick wall, wood floor, hardwood floor, lawn, forest
"""
)
# Places that a picture may be set in when its prompt names none.
SETTINGS = _set(
    """
park, garden, yard, backyard, living room, bedroom, kitchen, office, studio, beach, lake, river, sea, city, town,
village, meadow, farm, desert, countryside, alley, hallway, courtyard, patio, balcony, plaza, square, restaurant, cafe,
bar, library, store, shop, market, street corner, parking lot, playground, pond, shore, coast, valley, interior
"""
)
# What may be there with each class of noun; the classes are the lexicon's.
WITH_CLASS = _table("with classes")
# What goes with single words of a prompt, nouns or verbs.
WITH_WORD = _table("with words")
MAN = _set("man, guy, gentleman, male, adult male, male person")
WOMAN = _set("woman, lady, female, female person")
ADULTS = MAN | WOMAN
YOUNG = _set("boy, girl, young man, young woman, teenager")
CHILDREN = _set("child, kid, baby, toddler, infant, newborn, schoolchild, teenager")
SEVERAL = _set(
    "people, crowd, group, family, team, couple, audience, band, trio, friend, herd, flock, pack, pair, group of people"
)
NEUTRAL = _set("person, human, people, human being, individual, adult, someone, figure")
