"""English captions with the habits of alt texts, and boilerplate that says nothing."""

from __future__ import annotations

from dcfast.world.scene import Group, Scene
from dcfast.world.streams import Stream
from dcfast.world.vocabulary import BACKGROUNDS, KINDS, NUMBER_WORDS, RELATIONS, TEXTURES, article

_PREFIXES = (
    ("", 0.34),
    ("a photo of ", 0.16),
    ("a picture of ", 0.10),
    ("an image of ", 0.08),
    ("photo of ", 0.06),
    ("a close-up of ", 0.04),
    ("this is a photo of ", 0.04),
    ("a beautiful view of ", 0.03),
    ("stock photo of ", 0.04),
    ("here you can see ", 0.04),
    ("there is ", 0.04),
    ("an illustration of ", 0.03),
)
_TAILS = (
    ("", 0.62),
    (" - stock photo", 0.06),
    (" - royalty free image", 0.03),
    (" | free wallpaper download", 0.03),
    (" by {name}", 0.04),
    (", photographed by {name}", 0.03),
    (" #{kind} #{colour}", 0.04),
    (" - image number {number}", 0.03),
    (", taken with a 50mm lens", 0.02),
    (", macro shot", 0.02),
    (" with bokeh", 0.01),
    (" ({year})", 0.03),
    (" | the {colour} collection", 0.02),
    (" IMG_{number}.jpg", 0.02),
)
_NAMES = ("Anna Miller", "John Carter", "Priya Shah", "Tom Becker", "Maria Lopez", "Ken Watts", "Lucy Hale")
_SIZE_WORDS = (("big", "large"), ("small", "little"))

# boilerplate by language; English texts are the default
_BOILERPLATE = {
    "en": (
        "IMG_{number}.jpg",
        "DSC0{number}.JPG",
        "image-{number}.png",
        "Click to enlarge the image",
        "Photo {small} of {large}",
        "Thumbnail image for product {number}",
        "No description available.",
        "Image may contain: outdoor and nature",
        "Add to cart",
        "View full size",
        "Share this on social media",
        "Placeholder image {number}",
        "Logo of our company",
        "Please log in to see this picture",
        "untitled-{number}",
        "screenshot {year}-0{small}-1{small} at 1{small}.27.4{small}",
        "More pictures in the gallery",
        "Advertisement",
    ),
    "de": (
        "Bild vergrößern",
        "Zum Vergrößern bitte anklicken",
        "Vorschaubild {number}",
        "Hier klicken für mehr Bilder",
    ),
    "fr": ("Cliquez pour agrandir l'image", "Image non disponible", "Voir toutes les photos de la galerie"),
    "es": ("Haga clic para ampliar la imagen", "Imagen no disponible", "Ver todas las fotos de la galería"),
    "it": ("Clicca per ingrandire l'immagine", "Immagine non disponibile", "Guarda tutte le foto della galleria"),
    "ru": ("Нажмите, чтобы увеличить изображение", "Изображение недоступно", "Смотреть все фотографии"),
    "zh": ("点击查看大图", "暂无图片说明", "查看更多图片"),
    "ja": ("クリックすると拡大します", "画像がありません", "もっと写真を見る"),
    "ar": ("انقر لتكبير الصورة", "الصورة غير متوفرة", "شاهد المزيد من الصور"),
}


def _fill(stream: Stream, text: str, kind: str = "", colour: str = "") -> str:
    small = stream.integer(1, 9)
    return text.format(
        name=stream.pick(_NAMES),
        kind=kind,
        colour=colour,
        number=stream.integer(1000, 9999),
        year=stream.integer(2005, 2023),
        small=small,
        large=small + stream.integer(1, 30),
    )


def _things(stream: Stream, group: Group, whole: bool) -> str:
    """A noun phrase: "two striped red circles"; unless whole, now and then an attribute is left out."""
    forms = KINDS[group.kind]
    singular, plural = forms[0] if len(forms) == 1 or stream.chance(0.8) else stream.pick(forms[1:])
    adjectives = []
    size_word = stream.chance(0.12)
    if group.count == 1 and size_word:
        share = group.spots[0][2]
        if share > 0.6 or share < 0.4:
            adjectives.append(stream.pick(_SIZE_WORDS[0 if share > 0.6 else 1]))
    tell_texture, tell_colour = stream.chance(0.88), stream.chance(0.94)
    if group.texture != "plain" and (tell_texture or whole):
        names = TEXTURES[group.texture]
        adjectives.append(names[0] if stream.chance(0.75) else names[-1])
    if tell_colour or whole:
        adjectives.append(group.colour)
    as_digit, counted = stream.chance(0.15), stream.chance(0.12)
    if group.count == 1 and counted:
        return " ".join([stream.pick(("one", "a single")), *adjectives, singular])
    if group.count == 1:
        return article(" ".join([*adjectives, singular]))
    number = str(group.count) if as_digit else NUMBER_WORDS[group.count]
    return " ".join([number, *adjectives, plural])


def english_caption(scene: Scene, stream: Stream, *, whole: bool = False) -> str:
    """A caption of the scene; ``whole`` leaves nothing out and adds no stock-photo tail (retrieval sets)."""
    text = _things(stream, scene.main, whole)
    tell_other, tell_place = stream.chance(0.8), stream.chance(0.78)
    if scene.other is not None and (tell_other or whole):
        phrases = RELATIONS[scene.relation]
        joint = phrases[0] if stream.chance(0.7) else phrases[-1]
        text += f" {joint} {_things(stream, scene.other, whole)}"
    place = BACKGROUNDS[scene.background]
    phrase = place[0] if stream.chance(0.75) else place[-1]
    place_first = stream.chance(0.07)
    prefix, tail = stream.weighted(_PREFIXES), stream.weighted(_TAILS)
    if tell_place or whole:
        text = f"{phrase}: {text}" if place_first and not prefix else f"{text} {phrase}"
    if prefix == "there is " and scene.main.count > 1:
        prefix = "there are "
    text = prefix + text
    if not whole:
        noun = KINDS[scene.main.kind][0][0].replace(" ", "")
        text += _fill(stream, tail, noun, scene.main.colour)
    style = stream.random()
    if style < 0.06 and not whole:
        return text.title()
    if style < 0.50:
        text = text[0].upper() + text[1:]
    if 0.30 < style < 0.62 and text[-1].isalpha():
        text += "."
    if style > 0.995 and not whole:  # alt texts may hold line breaks
        text = text.replace(" ", "\n", 1)
    return text


def flat_caption(colour: str, stream: Stream) -> str:
    """A caption of a picture of one colour."""
    text = stream.pick(("a plain {} background", "just the color {}", "an empty {} picture", "a solid {} wallpaper"))
    return text.format(colour)


def boilerplate(stream: Stream, language: str = "en") -> str:
    """A text that stands beside pictures on web pages and tells nothing about them."""
    return _fill(stream, stream.pick(_BOILERPLATE[language]))
