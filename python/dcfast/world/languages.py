"""Captions in other languages: word lists and sentence patterns that need no agreement of endings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dcfast.world.scene import Scene
from dcfast.world.streams import Stream
from dcfast.world.vocabulary import BACKGROUNDS, COLOURS, KINDS, TEXTURES


@dataclass(frozen=True)
class _Language:
    """Words in the vocabulary's order; patterns take {n} number, {k} kind, {c} colour, {t} texture, {b} background."""

    one: str  # kinds in the singular, with an article where the language has one
    many: str  # kinds in the plural
    colours: str
    textures: str
    backgrounds: str
    numbers: str  # 2 to 5
    single: tuple[str, ...]
    several: tuple[str, ...]
    textured: str  # how a texture is added after the colour
    second: str  # how the other thing is added: {k}, {c}

    def words(self, field: str) -> list[str]:
        return [word.strip() for word in getattr(self, field).split(",")]

    def word(self, field: str, vocabulary: Iterable[str], name: str) -> str:
        """The word for a name of the vocabulary."""
        return dict(zip(vocabulary, self.words(field), strict=True))[name]


LANGUAGES: dict[str, _Language] = {
    "de": _Language(
        one="ein Kreis, ein Quadrat, ein Dreieck, ein Stern, ein Herz, ein Halbmond, ein Kreuz, ein Ring, eine Raute, "
        "ein Pfeil, ein Haus, ein Baum, ein Fisch, ein Boot, ein Pilz, ein Regenschirm",
        many="Kreise, Quadrate, Dreiecke, Sterne, Herzen, Halbmonde, Kreuze, Ringe, Rauten, Pfeile, Häuser, Bäume, "
        "Fische, Boote, Pilze, Regenschirme",
        colours="Rot, Orange, Gelb, Grün, Blau, Lila, Rosa, Braun, Schwarz, Weiß, Grau, Türkis",
        textures="einfarbig, gestreift, gepunktet, kariert, mit Zickzackmuster, mit Spiralmuster",
        backgrounds="am Himmel, auf der Wiese, am Strand, in der Nacht, im Schnee, vor einer Ziegelmauer, "
        "auf dem Holztisch, im Wasser, in der Stadt, im Wald, auf einfachem Hintergrund",
        numbers="zwei, drei, vier, fünf",
        single=("Foto: {k} in {c} {b}", "{k} in {c} aufgenommen {b}", "Auf dem Bild ist {k} in {c} {b} zu sehen"),
        several=("Foto: {n} {k} in {c} {b}", "{n} {k} in {c} aufgenommen {b}", "Das Bild zeigt {n} {k} in {c} {b}"),
        textured="{c}, {t},",
        second=" und daneben {k} in {c}",
    ),
    "fr": _Language(
        one="un cercle, un carré, un triangle, une étoile, un cœur, un croissant de lune, une croix, un anneau, "
        "un losange, une flèche, une maison, un sapin, un poisson, un bateau, un champignon, un parapluie",
        many="cercles, carrés, triangles, étoiles, cœurs, croissants de lune, croix, anneaux, losanges, flèches, "
        "maisons, sapins, poissons, bateaux, champignons, parapluies",
        colours="rouge, orange, jaune, verte, bleue, violette, rose, brune, noire, blanche, grise, turquoise",
        textures="unie, rayée, à pois, à carreaux, en zigzag, en spirale",
        backgrounds="dans le ciel, sur l'herbe, sur la plage, pendant la nuit, dans la neige, "
        "devant un mur de briques, sur une table en bois, dans l'eau, dans la ville, dans la forêt, sur un fond simple",
        numbers="deux, trois, quatre, cinq",
        single=(
            "Photo : {k} de couleur {c} {b}",
            "{k} de couleur {c}, vu {b}",
            "Une image avec {k} de couleur {c} {b}",
        ),
        several=(
            "Photo : {n} {k} de couleur {c} {b}",
            "{n} {k} de couleur {c}, vus {b}",
            "Une image avec {n} {k} de couleur {c} {b}",
        ),
        textured="{c} {t}",
        second=", et à côté {k} de couleur {c}",
    ),
    "es": _Language(
        one="un círculo, un cuadrado, un triángulo, una estrella, un corazón, una media luna, una cruz, un anillo, "
        "un rombo, una flecha, una casa, un árbol, un pez, un barco, una seta, un paraguas",
        many="círculos, cuadrados, triángulos, estrellas, corazones, medias lunas, cruces, anillos, rombos, flechas, "
        "casas, árboles, peces, barcos, setas, paraguas",
        colours="rojo, naranja, amarillo, verde, azul, morado, rosa, marrón, negro, blanco, gris, turquesa",
        textures="liso, a rayas, con lunares, a cuadros, en zigzag, en espiral",
        backgrounds="en el cielo, sobre la hierba, en la playa, por la noche, en la nieve, delante de un muro de "
        "ladrillos, sobre una mesa de madera, en el agua, en la ciudad, en el bosque, sobre un fondo sencillo",
        numbers="dos, tres, cuatro, cinco",
        single=(
            "Foto de {k} de color {c} {b}",
            "{k} de color {c}, tomada {b}",
            "En la imagen se ve {k} de color {c} {b}",
        ),
        several=("Foto de {n} {k} de color {c} {b}", "En la imagen se ven {n} {k} de color {c} {b}"),
        textured="{c} {t}",
        second=" y al lado {k} de color {c}",
    ),
    "it": _Language(
        one="un cerchio, un quadrato, un triangolo, una stella, un cuore, una mezzaluna, una croce, un anello, "
        "un rombo, una freccia, una casa, un albero, un pesce, una barca, un fungo, un ombrello",
        many="cerchi, quadrati, triangoli, stelle, cuori, mezzelune, croci, anelli, rombi, frecce, case, alberi, "
        "pesci, barche, funghi, ombrelli",
        colours="rosso, arancione, giallo, verde, blu, viola, rosa, marrone, nero, bianco, grigio, turchese",
        textures="liscio, a righe, a pallini, a scacchi, a zigzag, a spirale",
        backgrounds="nel cielo, sul prato, sulla spiaggia, durante la notte, nella neve, davanti a un muro di mattoni, "
        "su un tavolo di legno, nell'acqua, nella città, nel bosco, su uno sfondo semplice",
        numbers="due, tre, quattro, cinque",
        single=("Foto di {k} di colore {c} {b}", "Nell'immagine si vede {k} di colore {c} {b}"),
        several=("Foto di {n} {k} di colore {c} {b}", "Nell'immagine si vedono {n} {k} di colore {c} {b}"),
        textured="{c} {t}",
        second=" e accanto {k} di colore {c}",
    ),
    "ru": _Language(
        one="круг, квадрат, треугольник, звезда, сердце, полумесяц, крест, кольцо, ромб, стрелка, дом, дерево, рыба, "
        "лодка, гриб, зонт",
        many="круги, квадраты, треугольники, звёзды, сердца, полумесяцы, кресты, кольца, ромбы, стрелки, дома, "
        "деревья, рыбы, лодки, грибы, зонты",
        colours="красного, оранжевого, жёлтого, зелёного, синего, фиолетового, розового, коричневого, чёрного, белого, "
        "серого, бирюзового",
        textures="без узора, в полоску, в горошек, в клетку, с зигзагами, со спиралью",
        backgrounds="в небе, на траве, на пляже, ночью, на снегу, у кирпичной стены, на деревянном столе, в воде, "
        "в городе, в лесу, на простом фоне",
        numbers="2, 3, 4, 5",
        single=("Фото: {k} {c} цвета {b}", "{k} {c} цвета {b}, красивая картинка", "На картинке {k} {c} цвета {b}"),
        several=("Фото: {k} {c} цвета {b}, количество: {n}", "На картинке {k} {c} цвета {b}, всего {n}"),
        textured="{t} {c}",
        second=", рядом {k} {c} цвета",
    ),
    "zh": _Language(
        one="圆形, 正方形, 三角形, 星星, 爱心, 新月, 十字, 圆环, 菱形, 箭头, 房子, 树, 鱼, 小船, 蘑菇, 雨伞",
        many="圆形, 正方形, 三角形, 星星, 爱心, 新月, 十字, 圆环, 菱形, 箭头, 房子, 树, 鱼, 小船, 蘑菇, 雨伞",
        colours="红色, 橙色, 黄色, 绿色, 蓝色, 紫色, 粉色, 棕色, 黑色, 白色, 灰色, 青色",
        textures="纯色, 条纹, 圆点, 格子, 锯齿纹, 螺旋纹",
        backgrounds="在天空中, 在草地上, 在沙滩上, 在夜晚, 在雪地里, 在砖墙前, "
        "在木桌上, 在水里, 在城市里, 在森林里, 在纯色背景上",
        numbers="两个, 三个, 四个, 五个",
        single=("一个{c}的{k}{b}", "图片：{b}的{c}{k}", "照片里有一个{c}的{k}，{b}"),
        several=("{n}{c}的{k}{b}", "图片：{b}的{n}{c}{k}", "照片里有{n}{c}的{k}，{b}"),
        textured="{c}{t}",
        second="，旁边还有一个{c}的{k}",
    ),
    "ja": _Language(
        one="円, 四角形, 三角形, 星, ハート, 三日月, 十字, 輪, ひし形, 矢印, 家, 木, 魚, 船, きのこ, 傘",
        many="円, 四角形, 三角形, 星, ハート, 三日月, 十字, 輪, ひし形, 矢印, 家, 木, 魚, 船, きのこ, 傘",
        colours="赤, オレンジ, 黄色, 緑, 青, 紫, ピンク, 茶色, 黒, 白, 灰色, 水色",
        textures="無地, しま模様, 水玉模様, チェック柄, ジグザグ模様, うずまき模様",
        backgrounds="空にある, 草の上の, 砂浜にある, 夜の, 雪の中の, レンガの壁の前の, "
        "木のテーブルの上の, 水の中の, 街の中の, 森の中の, 無地の背景の",
        numbers="2つ, 3つ, 4つ, 5つ",
        single=("{b}{c}の{k}の写真", "{b}{c}の{k}です", "写真：{b}{c}の{k}"),
        several=("{b}{c}の{k}が{n}あります", "{b}{c}の{k}{n}の写真"),
        textured="{c}で{t}",
        second="と、となりの{c}の{k}",
    ),
    "ar": _Language(
        one="دائرة, مربع, مثلث, نجمة, قلب, هلال, صليب, خاتم, معين, سهم, بيت, شجرة, سمكة, قارب, فطر, مظلة",
        many="دوائر, مربعات, مثلثات, نجوم, قلوب, أهلة, صلبان, خواتم, معينات, أسهم, بيوت, أشجار, أسماك, قوارب, "
        "فطر, مظلات",
        colours="الأحمر, البرتقالي, الأصفر, الأخضر, الأزرق, البنفسجي, الوردي, البني, الأسود, الأبيض, الرمادي, الفيروزي",
        textures="سادة, مخطط, منقط, مربعات, متعرج, حلزوني",
        backgrounds="في السماء, على العشب, على الشاطئ, في الليل, في الثلج, أمام جدار من الطوب, على طاولة خشبية, "
        "في الماء, في المدينة, في الغابة, على خلفية بسيطة",
        numbers="اثنان, ثلاثة, أربعة, خمسة",
        single=("صورة {k} باللون {c} {b}", "{k} باللون {c} {b}", "في الصورة {k} باللون {c} {b}"),
        several=("صورة {k} باللون {c} {b} والعدد {n}", "في الصورة {k} باللون {c} {b} وعددها {n}"),
        textured="{c} بنمط {t}",
        second=" وبجانبها {k} باللون {c}",
    ),
}


def foreign_caption(scene: Scene, stream: Stream, language: str) -> str:
    """A caption of the scene in one of LANGUAGES; it tells what an English one would."""
    table, group, other = LANGUAGES[language], scene.main, scene.other
    colour = table.word("colours", COLOURS, group.colour)
    if group.texture != "plain":
        colour = table.textured.format(c=colour, t=table.word("textures", TEXTURES, group.texture))
    alone = group.count == 1
    text = stream.pick(table.single if alone else table.several).format(
        n="" if alone else table.words("numbers")[group.count - 2],
        k=table.word("one" if alone else "many", KINDS, group.kind),
        c=colour,
        b=table.word("backgrounds", BACKGROUNDS, scene.background),
    )
    tell_other = stream.chance(0.7)
    if other is not None and tell_other:
        kind, colour = table.word("one", KINDS, other.kind), table.word("colours", COLOURS, other.colour)
        text += table.second.format(k=kind, c=colour)
    return text[0].upper() + text[1:]
