"""The words and colours of the world: kinds of things, colours, textures, backgrounds, and their English."""

from __future__ import annotations

# kind -> (singular, plural) forms, the first the commonest
KINDS: dict[str, tuple[tuple[str, str], ...]] = {
    "circle": (("circle", "circles"), ("disc", "discs")),
    "square": (("square", "squares"), ("block", "blocks")),
    "triangle": (("triangle", "triangles"),),
    "star": (("star", "stars"),),
    "heart": (("heart", "hearts"),),
    "crescent": (("crescent", "crescents"), ("crescent moon", "crescent moons")),
    "cross": (("cross", "crosses"), ("plus sign", "plus signs")),
    "ring": (("ring", "rings"), ("hoop", "hoops")),
    "diamond": (("diamond", "diamonds"),),
    "arrow": (("arrow", "arrows"),),
    "house": (("house", "houses"), ("cottage", "cottages")),
    "tree": (("tree", "trees"), ("fir tree", "fir trees")),
    "fish": (("fish", "fish"),),
    "boat": (("boat", "boats"), ("sailboat", "sailboats")),
    "mushroom": (("mushroom", "mushrooms"), ("toadstool", "toadstools")),
    "umbrella": (("umbrella", "umbrellas"),),
}

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 36, 38),
    "orange": (245, 134, 24),
    "yellow": (248, 216, 42),
    "green": (40, 150, 58),
    "blue": (36, 84, 208),
    "purple": (126, 48, 168),
    "pink": (244, 132, 186),
    "brown": (126, 78, 40),
    "black": (28, 28, 32),
    "white": (246, 246, 244),
    "gray": (134, 136, 140),
    "turquoise": (36, 194, 194),
}

# texture -> adjectives; plain things are usually not called plain
TEXTURES: dict[str, tuple[str, ...]] = {
    "plain": ("plain",),
    "striped": ("striped",),
    "dotted": ("dotted", "spotted"),
    "checkered": ("checkered",),
    "zigzag": ("zigzag",),
    "swirled": ("swirled", "spiral"),
}

# background -> phrases, the first the commonest
BACKGROUNDS: dict[str, tuple[str, ...]] = {
    "sky": ("in the sky", "in a blue sky with clouds"),
    "grass": ("on the grass", "in a green meadow"),
    "beach": ("on the beach", "on a sandy beach"),
    "night": ("at night", "under the night sky"),
    "snow": ("in the snow", "on a snowy field"),
    "bricks": ("in front of a brick wall", "against a brick wall"),
    "wood": ("on a wooden table", "on wooden boards"),
    "water": ("in the water", "on the sea"),
    "city": ("in the city", "in front of the city skyline"),
    "forest": ("in the forest", "in the woods"),
    "studio": ("on a plain background", "in a studio"),
}

NUMBER_WORDS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}

# where the main thing is, seen from the other thing
RELATIONS: dict[str, tuple[str, ...]] = {
    "above": ("above", "over"),
    "below": ("below", "under"),
    "left": ("to the left of", "next to"),
    "right": ("to the right of", "beside"),
}

LIGHTS = ("day", "dusk", "overcast", "lamp", "haze")


def article(phrase: str) -> str:
    """The phrase with "a" or "an" before it, by its first letter."""
    return ("an " if phrase[:1].lower() in "aeiou" else "a ") + phrase
