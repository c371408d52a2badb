"""The closed word classes and word lists of caption English, as data."""

from __future__ import annotations


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _phrases(text: str) -> frozenset[str]:
    return frozenset(line.strip() for line in text.replace("\n", ",").split(",") if line.strip())


SINGULAR_DETERMINERS = _set("a an this that another each every either neither one")
PLURAL_DETERMINERS = _set("these those several many few both various multiple numerous countless two three")
DETERMINERS = SINGULAR_DETERMINERS | _set(
    "the these those some any no all both several many few such what which whose half"
) - {"one"}
POSSESSIVES = _set("my your his her its our their whose")
PRONOUNS = _set(
    """i you he she it we they me him us them himself herself itself themselves myself yourself ourselves one another
    someone somebody something anyone anybody anything everyone everybody everything nobody nothing none mine yours
    hers theirs each other who whom"""
) - {"one", "another", "each", "other", "who", "whom"}
RELATIVES = _set("that who which whom whose where")
SUBORDINATORS = _set("while as when because although though since until if unless whereas before after once so")
COORDINATORS = frozenset({"and", "or", "but", "nor", "&", "plus", "yet", "/", "+"})
MODALS = _set("can could will would shall should may might must cannot")
BE = _set("is are was were be been being am 's 're 'm isn't aren't")
HAVE = _set("has have had having")
DO = _set("does do did")
NEGATIONS = _set("not n't never no without neither nor")
PREPOSITIONS = _set(
    """about above across after against along alongside amid amidst among amongst around as at atop before behind below
    beneath beside besides between beyond by despite down during except for from in inside into like near nearby of
    off on onto opposite out outside over past per round since through throughout till to toward towards under
    underneath unlike until up upon via with within without versus vs than featuring depicting aboard astride minus
    w/ w/o"""
) - {"nearby", "featuring", "depicting"}
LOCATIVE = _set(
    """above across against along alongside amid amidst among amongst around at atop before behind below beneath beside
    between beyond by down during in inside into near off on onto opposite out outside over past round through
    throughout toward towards under underneath up upon within aboard astride"""
)
PARTICLES = _set("up down out off away back over on in around along apart together forward aside through by")
ADVERBS = _set(
    """very really so too quite rather extremely incredibly highly deeply brightly slowly quickly together alone apart
    away here there now then just also still almost about only even again forward backwards backward forwards upward
    upwards downward downwards everywhere somewhere softly gently happily sadly quietly loudly gracefully carefully
    closely tightly directly partially partly fully half mostly intricately beautifully upside sideways ahead nearby
    overhead outdoors indoors aside abreast afar once twice around straight high low slightly elegantly peacefully
    playfully"""
)
TYPOS = {"teh": "the", "hte": "the", "adn": "and", "nad": "and", "wiht": "with", "wih": "with", "ont": "on", "fo": "of",
         "ot": "to", "taht": "that", "ans": "and", "an d": "and", "thru": "through", "nex": "next"}  # fmt: skip
NUMBERS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17,
    "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "hundred": 100,
    "thousand": 1000, "dozen": 12,
}  # fmt: skip

# Prepositions of several words; the longest match wins.
COMPOUND_PREPOSITIONS = _phrases(
    """next to, close to, near to, on top of, in front of, in back of, to the left of, to the right of,
    to the side of, on the left of, on the right of, on the left side of, on the right side of,
    on the other side of, on either side of, on each side of, on both sides of, to the left side of,
    to the right side of, at the left of, at the right of, left of, right of, on the side of, at the side of,
    by the side of, on the top of, at the top of, at the bottom of, on the bottom of, in the middle of,
    in the center of, in the centre of, at the center of, at the centre of, in the midst of, at the foot of,
    at the base of, on the outskirts of, at the end of, in the back of, at the back of, in the front of,
    at the front of, inside of, outside of, out of, off of, instead of, because of, along with, together with,
    away from, far from, across from, adjacent to, opposite to, such as, as well as, full of, due to, according to,
    up to, ahead of, on board, in between, in place of, with the help of, by means of, right next to,
    directly above, directly below, directly behind, in the background of, in the foreground of,
    diagonally across from, face to face with, side by side with"""
)
COMPOUND_LOCATIVE = frozenset(
    p for p in COMPOUND_PREPOSITIONS
    if p not in {"such as", "as well as", "full of", "due to", "because of", "instead of", "according to", "along with",
                 "together with", "out of", "with the help of", "by means of", "away from", "up to", "in place of"}
)  # fmt: skip

QUANTIFIERS = _set(
    """group groups bunch pair pairs set couple couples lot lots number variety handful plenty dozens hundreds
    thousands dozen assortment collection series trio duo quartet multitude"""
)
COLLECTIVES = _set(
    """herd flock crowd swarm pack school pride colony gang troop horde mob throng team litter army squad band family
    gaggle host cluster murder pod party flocks herds crowds packs swarms teams"""
)
IDIOMS = _phrases(
    """on the left, on the right, to the left, to the right, hand in hand, side by side, face to face, back to back,
    arm in arm, upside down, inside out, one by one,
    step by step, shoulder to shoulder, head to head, nose to nose, cheek to cheek, at the same time, at once,
    at work, at rest, at play, in line, on fire, in flight, in motion, in mid-air, in midair, in love, of course,
    for example, at least, at most, on foot, by hand, on display, on duty, in focus, in bloom, in full bloom,
    in action, on top, on guard, a lot, in a row, in a line, in a circle, up close, out loud, as if"""
)
QUANTIFIER_COUNTS = {"pair": 2, "couple": 2, "trio": 3, "duo": 2, "quartet": 4, "dozen": 12}

PLACES = _set(
    """ice air area alley apartment aquarium arena attic avenue background backdrop backyard bakery balcony bar barn
    basement bathroom battlefield battleground bay beach bedroom boardwalk boulevard bridge cabin cafe café
    cafeteria camp campsite campus canyon casino castle cathedral cave cavern ceiling cemetery church circus city
    cityscape classroom clearing cliff clinic clouds club coast corridor cottage countryside court courtroom
    courtyard creek crossroads dark darkness dawn day daylight daytime deck desert diner distance dock driveway
    dungeon dusk earth evening factory fair farm farmland field fireplace fog forefront foreground forest fountain
    freeway gallery garage garden glacier glade graveyard greenhouse grass grassland ground gym gymnasium hall
    hallway harbor harbour heaven highway hill hillside hilltop horizon hospital hotel house igloo indoors
    intersection interior island jungle kitchen lab laboratory lagoon lake lakeside landscape lane lawn library
    lighthouse lobby loft market marketplace marsh mars meadow mist moon moonlight morning mountain mountains
    mountainside mountaintop mall museum night nightclub nighttime noon oasis ocean office orchard outdoors outside
    palace parade park parking parlor pasture path pathway patio pavement pier planet plain plains plaza pond pool
    porch port prairie prison pub rain rainforest rainstorm ranch restaurant river riverbank riverside road roadside
    rooftop room roof ruin ruins runway saloon sand savanna savannah scene school sea seashore seaside seabed shade
    shadows shore shoreline sidewalk skies sky skyline slope slum snow snowstorm space spaceship spotlight square
    stadium stage staircase stairs station storm store stream street streets studio suburb subway summit sun
    sunlight sunrise sunset sunshine supermarket surroundings swamp tavern temple terrace theater theatre tower town
    tunnel tundra tv underwater universe valley vineyard village wasteland water waterfall waters wilderness wild
    wind winter wood woods workshop yard zoo spring autumn summer fall shop bookstore bookshop chapel monastery
    shrine mosque airport aisle arcade armory fields rainbow galaxy cosmos void ring rink pitch slopes trail
    treetops cloud surf waves tide mud dirt gravel puddles snowfall blizzard hurricane thunderstorm lightning haze
    dunes dune television forge smithy carnival festival concert ceremony war battle auditorium ballroom crypt tomb
    throneroom cockpit fjord reef seafloor undergrowth volcano crater wonderland fairyland paradise hell underworld
    pharmacy laundromat barbershop salon spa sauna velodrome château chateau"""
)
NOT_PLACES = _set(
    """beehive hive trap tree bush fence wall door gate window chair bench table desk sofa couch bed shelf counter box
    basket cup bowl plate horse back top side head hand stool rug carpet mat cushion pillow line rail railing ladder
    step post pole branch log rock stone boulder car truck bus boat ship train plane bicycle bike umbrella nest cage
    bucket wire rope chest throne pedestal sign letter number part point end face bottom crack hole base block spot
    shape sunflower shoulder nose leg arm lap bonfire campfire fire statue cart sled blanket towel treasure canvas
    board screen cube pot bottle tank jar cradle crib bathtub bath tub raft canoe kayak balloon banner gift present
    cabinet drawer refrigerator oven stove anvil piano map sculpture monument snowman sandcastle doll toy stump
    trunk birdcage dollhouse lamp lamppost light stand hat mirror dumpster roller coaster swing slide seesaw hammock
    wheel"""
)
ANIMATE = _set(
    """people robot robots android cyborg man woman person men women kid kids child children boy girl baby toddler guy
    lady couple family crowd team band orchestra crew squad gang army police zombie skeleton scarecrow snowman doll
    puppet alien astronaut pirate wizard witch knight princess prince king queen samurai ninja superhero monster
    creature dragon unicorn mermaid fairy elf dwarf goblin troll giant ogre angel demon devil ghost vampire werewolf
    minotaur centaur phoenix griffin golem dinosaur t-rex teddy mech mecha droid chef mouse bat crane fly turkey
    duck fox bug penguin jaguar beetle seal player model lead captain pilot driver painter sculptor dancer singer
    barista viking gnome mascot athlete someone figure cowboy character hero heroine villain squirrel kitty doggo
    pup pupper gentleman mage archer paladin cleric rogue necromancer sorcerer sorceress guard tourist tourists
    human humans 1girl 1boy minion santa batman superman spiderman shepherd herd flock pack swarm choir quartet trio
    duo audience jockey referee bride groom saber"""
)
CLOTHING = _set(
    """dress shirt skirt coat jacket hat cap suit uniform pants jeans shorts trousers shoes boots sneakers socks gloves
    scarf tie hoodie sweater robe robes cloak cape armor armour helmet glasses sunglasses goggles mask kimono gown
    costume outfit clothes clothing attire garb apron vest bikini swimsuit t-shirt tshirt raincoat jumpsuit overalls
    crown tiara necklace earrings bracelet turban veil hood turtleneck blouse cardigan tuxedo spacesuit pajamas
    backpack belt headphones headband ribbon collar tutu leotard leggings stockings sandals slippers bowtie fedora
    beret tunic toga saree sari poncho hijab"""
)
BODY = _set(
    """trunk hair beard mustache moustache eyes eye ears ear nose mouth face tail wings wing horns horn fur feathers
    mane legs leg arms arm hands hand feet head neck skin scales spots stripes stripe tentacles claws paws paw teeth
    fangs beak whiskers freckles tattoo tattoos scar scars braids braid ponytail pigtails bangs shell antlers tusks
    hooves lips smile expression eyebrows eyelashes muscles body belly spikes fins crest plumage pattern patterns"""
)
POSTPOSITIVE = _set(
    """full asleep alone awake available similar ready free open closed covered filled made alive aglow afloat adrift
    empty visible present ablaze alight aloft apart tall wide long high old deep bare"""
)
COLORS = _set(
    """red blue green yellow orange purple pink black white gray grey brown golden gold silver violet turquoise teal
    cyan magenta crimson scarlet beige tan maroon navy ivory lavender indigo bronze copper amber emerald ruby
    sapphire"""
)
MATERIALS = _set(
    """wooden metal steel glass stone brick leather silk cotton velvet paper plastic marble concrete ceramic porcelain
    stainless crystal iron straw bamboo wool brass rubber denim lace clay wicker cardboard"""
)
ADJECTIVES = _set(
    """female male cute big huge giant tiny little small young old pretty beautiful tall short long thick thin fluffy
    furry cyberpunk steampunk gothic medieval futuristic neon ancient vintage retro victorian modern chibi
    photorealistic realistic surreal majestic ethereal holographic bioluminescent glowing shiny open closed free
    light dark calico tabby ginger plain clear fat round flat wet dry cold hot warm cool sharp deep rusty dusty
    foggy snowy sunny cloudy stormy rainy misty smoky muddy sandy rocky grassy icy murky leafy mossy lush crowded
    busy empty narrow wide wild blonde blond brunette hooded winged bearded armored armoured caped masked messy
    curly wavy braided spiky one-eyed angry happy sad scared tired lonely hungry sleepy lazy grumpy playful curious
    confident mysterious magical enchanted haunted cozy kind fierce brave evil royal holy celestial cosmic solar
    lunar robotic mechanical electric tropical urban rural industrial abandoned elderly middle-aged skilled
    overweight muscular slim chubby naked shirtless barefoot fallen broken stolen frozen hidden lit worn torn
    crooked wrinkled spotted striped checkered pointed patched fancy elegant miniature mini opposite upper lower
    ornate rustic cracked ruined plush"""
)
# Words that lexicons call nouns first and captions use as verbs, with how readily.
VERB_FIRST = _set(
    """play plays walk walks run runs jump jumps sit sits stand stands ride rides hold holds look looks watch watches
    fight fights dance dances sleep sleeps fly flies swim swims climb climbs chase chases hunt hunts carry carries
    throw throws kick kicks hit hits hug hugs kiss kisses drink drinks eat eats cook cooks cut cuts paint paints
    read reads write writes sing sings wear wears lean leans rest rests hang hangs float floats pull pulls push
    pushes lift lifts drop drops catch catches guard guards attack attacks lick licks bite bites feed feeds pet pets
    wave waves point points smile smiles laugh laughs cry cries shake shakes serve serves wait waits hide hides talk
    talks work works drive drives sail sails cross crosses pass passes leap leaps dive dives race races roll rolls
    slide slides perch perches scratch scratches stare stares balance balances juggle juggles open opens close
    closes reach reaches touch touches steal steals plant plants water waters"""
)
PARTICIPLE_ADJECTIVES = _set(
    """glowing smiling sleeping running flying swimming floating crying laughing burning shining sparkling towering
    snarling rolling roaring blazing barking dancing walking jumping hovering falling rising setting crashing
    gleaming glittering shimmering smoking steaming screaming grinning sitting standing charging hanging leaping
    prancing galloping howling blooming flowering wandering glistening twinkling flickering smouldering smoldering
    charming stunning amazing frightening terrifying menacing raging winding sprawling looming soaring ageing aging
    talking singing blinking dripping melting boiling bubbling growing spinning rotating moving swirling whirling
    erupting exploding working winning living dying missing interesting captivating breathtaking enchanting imposing"""
)
# "a rocking chair": what the thing is for, so always part of the noun.
PURPOSE_NOUNS = _set(
    """swimming sleeping fishing hunting washing sewing rocking running hiking climbing shopping parking dining living
    wedding boxing cutting cooking frying mixing baking ironing vending landing sailing walking skating skiing
    surfing wrestling bowling racing riding training writing reading drinking painting drawing knitting spinning
    weaving gaming skipping jumping carving chopping building serving measuring dressing waiting meeting operating
    steering gardening camping diving flying fencing wading lighting rolling"""
)
PURPOSE_HEADS = _set(
    """pool bag rod boot boots machine chair ring room lot mall board pan bowl wheel knife iron suit track shoes shoe
    gear table dress cake gloves glove oil rope lounge area stick pin pole boat ship car horse dog ground field wall
    lesson alley pond net arena center centre partner hall plate spoon utensils cup needle needles strip tent
    equipment loom rink stage mower carpet kit song school club desk platform costume jacket glass fountain light
    lights"""
)

STYLE_HEADS = _set(
    """lighting light lights photography photo photograph photorealism atmosphere mood moody style quality render
    rendering resolution focus detail details art artwork illustration aesthetic ambience ambiance vibe vibes colors
    colours palette composition bokeh depth shading texture textures shot lens film grain angle exposure hdr engine
    realism concept design wallpaper masterpiece cinematic perspective contrast tones tone shadows hues artstation
    deviantart pixiv cgi blur flare closeup close-up lineart glow rays caustics award winner beauty effect effects
    rating score lora wide-angle"""
)
STYLE_WORDS = _set(
    """masterpiece best high highest ultra super hyper extremely highly very incredibly insanely intricate intricately
    detailed detail details quality realistic photorealistic photo-realistic hyperrealistic ultrarealistic
    hyperdetailed ultradetailed ultra-detailed hyper-detailed highly-detailed 4k 8k 16k 2k hd uhd fhd hdr highres
    absurdres hires lowres sharp focus cinematic dramatic volumetric moody studio soft natural warm cold ambient rim
    backlit trending artstation on deviantart pixiv unreal engine octane render 3d cgi vray v-ray blender redshift
    ray tracing raytracing award winning award-winning professional photography photo photograph photorealism
    realism raw dslr 35mm 50mm 85mm 24mm f1.8 f/1.8 f1.4 bokeh film grain grainy kodak fujifilm nikon canon sony
    polaroid analog vintage style artstyle art artwork digital oil watercolor watercolour acrylic pencil ink sketch
    illustration painting drawing concept anime manga comic cartoon pixar disney ghibli matte lineart surreal
    surrealism impressionist impressionism minimalist minimalism pop deco nouveau baroque macro wide angle closeup
    close-up close shot view portrait full-body full body upper medium long extreme low aerial beautiful stunning
    gorgeous amazing epic aesthetic elegant vibrant vivid colorful colourful colors colours color colour palette
    pastel monochrome noir gritty atmospheric atmosphere mood cozy dreamy ethereal mystical whimsical smooth clean
    crisp depth of field shallow dof composition rule thirds golden hour ratio perfect perfectly centered
    symmetrical symmetry texture textures textured skin pores resolution lighting light rays god global illumination
    reflections caustics subsurface scattering physically based rendering pbr featured popular winner contest by and
    official wallpaper sfw nsfw safe rating general glossy glow tone tones tonemapped tone-mapped contrast low-poly
    lowpoly isometric pixel pixelart voxel vaporwave synthwave 1990s 1980s 80s 90s retro lens flare motion blur
    tilt-shift long-exposure exposure high-resolution high-quality high-res ultra-hd ultra-realistic hyper-realistic
    super-resolution ultrahd 3:4 wlop artgerm rutkowski newest score_9 score_8_up score_9_up absurd res"""
)
# A lone word of these is content, not style, although it also colours style phrases.
STYLE_NEED_COMPANY = _set(
    """black white on of by with in and the close full body upper skin light rays golden oil pencil ink film canon
    based wide long medium low perfect view portrait cartoon art shot painting drawing winner field hour colors no
    glow rule general lens engine flare contest thirds res raw pop god anime comic noir camera retro vintage
    illustration sketch winning"""
)
STYLE_PHRASES = _phrases(
    """solo, looking at viewer, looking at the viewer, facing viewer, no humans, oil painting, sfw, nsfw, golden hour,
    blue hour, low poly, kodak portra, kodak portra 400, fujifilm superia, rule of thirds, depth of field, vector,
    vector art, dutch angle, from above, from below, from behind, from side, upper body, full body, cowboy shot,
    portrait, close-up, close up, wide shot, long shot, medium shot, side view, front view, back view,
    dynamic pose, dynamic angle, film noir, cel shading, line art, flat color, flat colors, pop art, fantasy art,
    concept art, comic style, hard light, soft light, rim light, back light, god rays, lens flare,
    chromatic aberration, motion blur, film still, movie still, simple style, clean lines, bold lines, thick lines,
    high contrast, low contrast, black and white, sepia, unreal engine 5, long exposure, double exposure,
    cinematic still, national geographic, studio ghibli, vaporwave, synthwave"""
)
MEDIA = _set(
    """photo photograph picture image painting drawing sketch illustration portrait render rendering shot view close-up
    closeup close snapshot artwork art poster depiction cartoon watercolor watercolour photography engraving print
    screenshot still selfie footage etching lithograph woodcut fresco photographs pictures photos images
    illustrations paintings sketches drawings depictions comic collage visualization logo icon sticker sprite emoji
    oil-painting photorealistic cgi cover wallpaper headshot"""
)
PRAISE = _set("stunning amazing charming breathtaking striking captivating")

# Verbs that leave 'with' to their object, and participles that say what a thing is like rather than a person.
HOLDING = _set("hold carry wear have see own show paint draw watch bring ride drive build")
STATES_OF_THINGS = _set("filled covered made decorated lined topped attached called named labeled")

# Prepositions that bring a party and no place: always, or with someone who is alive.
DIRECTIONAL = _phrases("to, into, onto, at, from, against, toward, towards, after, out of, away from, off")
CARRYING = _phrases("on, over, around, upon, onto, on top of")

# Verbs by how they build their clause.
CATENATIVES = _set(
    """begin come continue enjoy finish get go hate keep lie like love practice prefer sit stand start stop try"""
)
CAUSATIVES = _set("have hear help let make see watch")
DITRANSITIVES = _set(
    """award bring build buy cook feed fetch get give grant hand lend make offer pass pay pour read sell send serve
    show teach tell throw toss write"""
)
AIMING = _set(
    """aim bark fire gaze glance glare growl howl laugh look peer point shoot shout smile stare throw wave yell"""
)
WRAPPING = _set(
    """carve sculpt craft build form mold shape adorn bathe bury clothe coat cover decorate drench dress engulf fill
    make shroud wrap"""
)
SITUATED = _set("""seated placed parked located situated positioned moored docked perched stationed stacked kept""")
LONE_PLACES = _set("indoors inside outdoors outside solo underwater")
SCENES = _set(
    """alley background bathroom beach bedroom cafe city cityscape classroom dawn day desert dusk field forest garden
    indoors inside jungle kitchen landscape library meadow mountains night ocean office outdoors outside park rain
    restaurant rooftop room scenery school sea sky snow space stage street sunrise sunset underwater woods"""
)

# Forms that endings do not tell.
IRREGULAR_PLURALS = _set(
    """men women children people feet teeth geese mice oxen lice police cattle fishermen policemen firemen sheep fish
    deer salmon shrimp aircraft series species clothes jeans pants trousers shorts glasses sunglasses scissors
    goggles pajamas binoculars headphones"""
)
BARE_PLURALS = _set("sheep fish deer salmon shrimp aircraft series species dice bison moose squid trout")
IRREGULAR_PARTICIPLES = _set("made worn torn held drawn woven broken frozen stolen fallen hidden lit built caught")
