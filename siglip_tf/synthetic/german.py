"""German captions. Adjectives have endings by gender and case."""

from siglip_tf.synthetic.composition import SceneObject
from siglip_tf.synthetic.grammar import ACCUSATIVE, DATIVE, NOMINATIVE, Grammar, Sentence, Wording, pick

# (noun, gender, dative form)
_SHAPES = {
    "circle": ("Kreis", "m", "Kreis"),
    "square": ("Quadrat", "n", "Quadrat"),
    "triangle": ("Dreieck", "n", "Dreieck"),
    "star": ("Stern", "m", "Stern"),
    "cross": ("Kreuz", "n", "Kreuz"),
    "ring": ("Ring", "m", "Ring"),
    "heart": ("Herz", "n", "Herzen"),
    "crescent": ("Mondsichel", "f", "Mondsichel"),
    "diamond": ("Raute", "f", "Raute"),
    "arrow": ("Pfeil", "m", "Pfeil"),
}
_PLURALS = {
    "circle": "Kreise",
    "square": "Quadrate",
    "triangle": "Dreiecke",
    "star": "Sterne",
    "cross": "Kreuze",
    "ring": "Ringe",
    "heart": "Herzen",
    "crescent": "Mondsicheln",
    "diamond": "Rauten",
    "arrow": "Pfeile",
}
_NUMBERS = {2: "zwei", 3: "drei"}
_COLOURS = {
    "red": "rot",
    "orange": "orangefarben",
    "yellow": "gelb",
    "green": "grün",
    "blue": "blau",
    "purple": ("violett", "violett", "lilafarben"),
    "pink": "rosafarben",
    "brown": "braun",
    "white": "weiß",
    "black": "schwarz",
}
_TEXTURES = {
    "plain": "einfarbig",
    "striped": "gestreift",
    "dotted": ("gepunktet", "getupft"),
    "checked": "kariert",
}
_SIZES = {"small": ("klein", "klein", "winzig"), "large": "groß"}
_ARTICLES = {
    NOMINATIVE: {"m": "ein", "f": "eine", "n": "ein"},
    ACCUSATIVE: {"m": "einen", "f": "eine", "n": "ein"},
    DATIVE: {"m": "einem", "f": "einer", "n": "einem"},
}
_ENDINGS = {
    NOMINATIVE: {"m": "er", "f": "e", "n": "es"},
    ACCUSATIVE: {"m": "en", "f": "e", "n": "es"},
    DATIVE: {"m": "en", "f": "en", "n": "en"},
}
_RELATIONS = {"above": "über", "below": "unter", "left": "links von", "right": "rechts von"}


class German(Grammar):
    """ein großer gestreifter roter Kreis oben links"""

    code = "de"
    subject_sentences = (
        Sentence("{}"),
        Sentence("ein Bild von {}", DATIVE),
        Sentence("das ist {}", plural="das sind {}"),
        Sentence("ein Bild mit {}", DATIVE),
        Sentence("hier gibt es {}", ACCUSATIVE),
        Sentence("eine Zeichnung von {}", DATIVE),
        Sentence("man sieht {}", ACCUSATIVE),
    )
    list_sentences = (
        Sentence("{}"),
        Sentence("ein Bild mit {}", DATIVE),
        Sentence("hier sehen wir {}", ACCUSATIVE),
        Sentence("das Bild zeigt {}", ACCUSATIVE),
    )
    count_sentences = (
        (Sentence("zwei Formen: {}"), Sentence("zwei Dinge, {}")),
        (Sentence("drei Formen: {}"), Sentence("drei Dinge, {}")),
    )
    places = (
        ("oben links", "in der oberen linken Ecke"),
        ("oben", "oben in der Mitte"),
        ("oben rechts", "in der oberen rechten Ecke"),
        ("links", "am linken Rand"),
        ("in der Mitte",),
        ("rechts", "am rechten Rand"),
        ("unten links", "in der unteren linken Ecke"),
        ("unten", "unten in der Mitte"),
        ("unten rechts", "in der unteren rechten Ecke"),
    )

    def noun_phrase(self, thing: SceneObject, wording: Wording, case: str = NOMINATIVE) -> str:
        noun, gender, dative = _SHAPES[thing.shape]
        declined = [adjective + _ENDINGS[case][gender] for adjective in _adjectives(thing, wording)]
        return " ".join([_ARTICLES[case][gender], *declined, dative if case == DATIVE else noun])

    def several(self, thing: SceneObject, count: int, wording: Wording, case: str = NOMINATIVE) -> str:
        words = [f"{adjective}{'en' if case == DATIVE else 'e'}" for adjective in _adjectives(thing, wording)]
        plural = _PLURALS[thing.shape]
        noun = plural + "n" if case == DATIVE and not plural.endswith("n") else plural
        return " ".join([_NUMBERS[count], *words, noun])

    def relation(self, first: SceneObject, second: SceneObject, wordings: tuple[Wording, Wording], where: str) -> str:
        other = self.noun_phrase(second, wordings[1], DATIVE)
        return f"{self.noun_phrase(first, wordings[0])} {_RELATIONS[where]} {other}"

    def join(self, phrases: list[str]) -> str:
        return " und ".join([", ".join(phrases[:-1]), phrases[-1]]) if len(phrases) > 1 else phrases[0]


def _adjectives(thing: SceneObject, wording: Wording) -> list[str]:
    """Returns the stems of the adjectives, without endings."""
    found = []
    if wording.size:
        found.append(pick(_SIZES[thing.size], wording.variant))
    if wording.texture:
        found.append(pick(_TEXTURES[thing.texture], wording.variant))
    return [*found, pick(_COLOURS[thing.colour], wording.variant)]
