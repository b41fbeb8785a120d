# ruff: noqa: RUF001  (the dotless i is intended)
"""Turkish captions. The article stands between adjectives and noun, and the genitive follows vowel harmony."""

from siglip_tf.synthetic.composition import SceneObject
from siglip_tf.synthetic.grammar import GENITIVE, NOMINATIVE, Grammar, Sentence, Wording, pick

# (nominative, genitive)
_SHAPES = {
    "circle": ("daire", "dairenin"),
    "square": ("kare", "karenin"),
    "triangle": ("üçgen", "üçgenin"),
    "star": ("yıldız", "yıldızın"),
    "cross": ("haç", "haçın"),
    "ring": ("halka", "halkanın"),
    "heart": ("kalp", "kalbin"),
    "crescent": ("hilal", "hilalin"),
    "diamond": ("eşkenar dörtgen", "eşkenar dörtgenin"),
    "arrow": ("ok", "okun"),
}
_COLOURS = {
    "red": "kırmızı",
    "orange": "turuncu",
    "yellow": "sarı",
    "green": "yeşil",
    "blue": "mavi",
    "purple": "mor",
    "pink": "pembe",
    "brown": "kahverengi",
    "white": "beyaz",
    "black": "siyah",
}
_TEXTURES = {"plain": "düz", "striped": "çizgili", "dotted": ("benekli", "puantiyeli"), "checked": "kareli"}
_SIZES = {"small": ("küçük", "ufak"), "large": "büyük"}
_NUMBERS = {2: "iki", 3: "üç"}
_RELATIONS = {"above": "üstünde", "below": "altında", "left": "solunda", "right": "sağında"}


class Turkish(Grammar):
    """sol üstte büyük çizgili kırmızı bir daire"""

    code = "tr"
    subject_sentences = (
        Sentence("{}"),
        Sentence("{} resmi"),
        Sentence("bu {}", plural="bunlar {}"),
        Sentence("resimde {} var"),
        Sentence("burada {} var"),
        Sentence("{} çizimi"),
        Sentence("{} görülüyor"),
    )
    list_sentences = (
        Sentence("{}"),
        Sentence("resimde {} var"),
        Sentence("burada {} görüyoruz"),
        Sentence("bu resimde {} görülüyor"),
    )
    count_sentences = (
        (Sentence("iki şekil: {}"), Sentence("iki şey, {}")),
        (Sentence("üç şekil: {}"), Sentence("üç şey, {}")),
    )
    places = (
        ("sol üstte", "sol üst köşede"),
        ("üstte", "üstte ortada"),
        ("sağ üstte", "sağ üst köşede"),
        ("solda", "sol kenarda"),
        ("ortada", "merkezde"),
        ("sağda", "sağ kenarda"),
        ("sol altta", "sol alt köşede"),
        ("altta", "altta ortada"),
        ("sağ altta", "sağ alt köşede"),
    )
    placed_pattern = "{place} {phrase}"

    def noun_phrase(self, thing: SceneObject, wording: Wording, case: str = NOMINATIVE) -> str:
        words = []
        if wording.size:
            words.append(pick(_SIZES[thing.size], wording.variant))
        if wording.texture:
            words.append(pick(_TEXTURES[thing.texture], wording.variant))
        words += [_COLOURS[thing.colour], "bir", _SHAPES[thing.shape][case == GENITIVE]]
        return " ".join(words)

    def several(self, thing: SceneObject, count: int, wording: Wording, case: str = NOMINATIVE) -> str:
        words = self.noun_phrase(thing, wording, case).split(" ")
        words.remove("bir")
        return " ".join([_NUMBERS[count], *words])  # the noun stays singular after a number

    def relation(self, first: SceneObject, second: SceneObject, wordings: tuple[Wording, Wording], where: str) -> str:
        other = self.noun_phrase(second, wordings[1], GENITIVE)
        return f"{other} {_RELATIONS[where]} {self.noun_phrase(first, wordings[0])}"

    def join(self, phrases: list[str]) -> str:
        return " ve ".join([", ".join(phrases[:-1]), phrases[-1]]) if len(phrases) > 1 else phrases[0]
