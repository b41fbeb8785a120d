"""French captions. Adjectives agree with the noun's gender, and "de" is elided before the article."""

from siglip_tf.synthetic.composition import SceneObject
from siglip_tf.synthetic.grammar import GENITIVE, NOMINATIVE, Grammar, Sentence, Wording, pick

_SHAPES = {
    "circle": ("cercle", "m"),
    "square": ("carré", "m"),
    "triangle": ("triangle", "m"),
    "star": ("étoile", "f"),
    "cross": ("croix", "f"),
    "ring": ("anneau", "m"),
    "heart": ("cœur", "m"),
    "crescent": ("croissant", "m"),
    "diamond": ("losange", "m"),
    "arrow": ("flèche", "f"),
}
# (masculine, feminine). "orange" and "marron" do not change.
_COLOURS = {
    "red": ("rouge", "rouge"),
    "orange": ("orange", "orange"),
    "yellow": ("jaune", "jaune"),
    "green": ("vert", "verte"),
    "blue": ("bleu", "bleue"),
    "purple": ("violet", "violette"),
    "pink": ("rose", "rose"),
    "brown": ("marron", "marron"),
    "white": ("blanc", "blanche"),
    "black": ("noir", "noire"),
}
_TEXTURES = {
    "plain": (("uni", "unie"),),
    "striped": (("à rayures", "à rayures"), ("rayé", "rayée")),
    "dotted": (("à pois", "à pois"),),
    "checked": (("à carreaux", "à carreaux"),),
}
_SIZES = {"small": ("petit", "petite"), "large": ("grand", "grande")}
_NUMBERS = {2: "deux", 3: "trois"}
_PLURALS = {"croix": "croix", "anneau": "anneaux", "orange": "orange", "marron": "marron"}
_RELATIONS = {"above": "au-dessus", "below": "en dessous", "left": "à gauche", "right": "à droite"}


class French(Grammar):
    """un grand cercle rouge à rayures en haut à gauche"""

    code = "fr"
    # The genitive is "de" before the phrase, elided: "une image d'un cercle".
    subject_sentences = (
        Sentence("{}"),
        Sentence("une image {}", GENITIVE),
        Sentence("c'est {}", plural="ce sont {}"),
        Sentence("une image avec {}"),
        Sentence("il y a {} ici"),
        Sentence("un dessin {}", GENITIVE),
        Sentence("on voit {}"),
    )
    list_sentences = (
        Sentence("{}"),
        Sentence("une image avec {}"),
        Sentence("ici nous voyons {}"),
        Sentence("cette image montre {}"),
    )
    count_sentences = (
        (Sentence("deux formes : {}"), Sentence("deux figures, {}")),
        (Sentence("trois formes : {}"), Sentence("trois figures, {}")),
    )
    places = (
        ("en haut à gauche", "dans le coin supérieur gauche"),
        ("en haut", "en haut au milieu"),
        ("en haut à droite", "dans le coin supérieur droit"),
        ("à gauche", "au bord gauche"),
        ("au milieu", "au centre"),
        ("à droite", "au bord droit"),
        ("en bas à gauche", "dans le coin inférieur gauche"),
        ("en bas", "en bas au milieu"),
        ("en bas à droite", "dans le coin inférieur droit"),
    )

    def noun_phrase(self, thing: SceneObject, wording: Wording, case: str = NOMINATIVE) -> str:
        noun, gender = _SHAPES[thing.shape]
        form = "mf".index(gender)
        words = [("un", "une")[form]]
        if wording.size:
            words.append(_SIZES[thing.size][form])
        words += [noun, _COLOURS[thing.colour][form]]
        if wording.texture:
            words.append(pick(tuple(forms[form] for forms in _TEXTURES[thing.texture]), wording.variant))
        phrase = " ".join(words)
        return f"d'{phrase}" if case == GENITIVE else phrase

    def several(self, thing: SceneObject, count: int, wording: Wording, case: str = NOMINATIVE) -> str:
        words = self.noun_phrase(thing, wording).split(" ")[1:]  # without the article
        phrase = " ".join([_NUMBERS[count], *_plural(words)])
        return f"de {phrase}" if case == GENITIVE else phrase

    def relation(self, first: SceneObject, second: SceneObject, wordings: tuple[Wording, Wording], where: str) -> str:
        other = self.noun_phrase(second, wordings[1], GENITIVE)
        return f"{self.noun_phrase(first, wordings[0])} {_RELATIONS[where]} {other}"

    def join(self, phrases: list[str]) -> str:
        return " et ".join([", ".join(phrases[:-1]), phrases[-1]]) if len(phrases) > 1 else phrases[0]


def _plural(words: list[str]) -> list[str]:
    """Returns the plural of every word before a phrase such as "à rayures"."""
    found: list[str] = []
    for i, word in enumerate(words):
        if word == "à":
            return found + words[i:]
        found.append(_PLURALS.get(word, word + "s"))
    return found
