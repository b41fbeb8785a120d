"""Spanish captions. Adjectives agree with the noun's gender."""

from siglip_tf.synthetic.composition import SceneObject
from siglip_tf.synthetic.grammar import NOMINATIVE, Grammar, Sentence, Wording, pick

_SHAPES = {
    "circle": ("círculo", "m"),
    "square": ("cuadrado", "m"),
    "triangle": ("triángulo", "m"),
    "star": ("estrella", "f"),
    "cross": ("cruz", "f"),
    "ring": ("anillo", "m"),
    "heart": ("corazón", "m"),
    "crescent": ("media luna", "f"),
    "diamond": ("rombo", "m"),
    "arrow": ("flecha", "f"),
}
# (masculine, feminine)
_COLOURS = {
    "red": ("rojo", "roja"),
    "orange": ("naranja", "naranja"),
    "yellow": ("amarillo", "amarilla"),
    "green": ("verde", "verde"),
    "blue": ("azul", "azul"),
    "purple": ("morado", "morada"),
    "pink": ("rosa", "rosa"),
    "brown": ("marrón", "marrón"),
    "white": ("blanco", "blanca"),
    "black": ("negro", "negra"),
}
_TEXTURES = {
    "plain": (("liso", "lisa"),),
    "striped": (("a rayas", "a rayas"), ("rayado", "rayada")),
    "dotted": (("de lunares", "de lunares"), ("con lunares", "con lunares")),
    "checked": (("a cuadros", "a cuadros"),),
}
# "gran" precedes nouns of both genders. The adjectives after the noun agree with it.
_SIZES_BEFORE = {"small": ("pequeño", "pequeña"), "large": ("gran", "gran")}
_SIZES_AFTER = {"small": ("pequeño", "pequeña"), "large": ("grande", "grande")}
_NUMBERS = {2: "dos", 3: "tres"}
_PLURALS = {"cruz": "cruces", "corazón": "corazones", "marrón": "marrones", "azul": "azules", "gran": "grandes"}
_WITHOUT_PLURAL = ("naranja", "rosa")
_RELATIONS = {
    "above": "encima de",
    "below": "debajo de",
    "left": "a la izquierda de",
    "right": "a la derecha de",
}


class Spanish(Grammar):
    """un gran círculo rojo a rayas arriba a la izquierda"""

    code = "es"
    subject_sentences = (
        Sentence("{}"),
        Sentence("una imagen de {}"),
        Sentence("esto es {}", plural="son {}"),
        Sentence("una imagen con {}"),
        Sentence("aquí hay {}"),
        Sentence("un dibujo de {}"),
        Sentence("se ve {}"),
    )
    list_sentences = (
        Sentence("{}"),
        Sentence("una imagen con {}"),
        Sentence("aquí vemos {}"),
        Sentence("esta imagen muestra {}"),
    )
    count_sentences = (
        (Sentence("dos formas: {}"), Sentence("dos figuras, {}")),
        (Sentence("tres formas: {}"), Sentence("tres figuras, {}")),
    )
    places = (
        ("arriba a la izquierda", "en la esquina superior izquierda"),
        ("arriba", "arriba en el centro"),
        ("arriba a la derecha", "en la esquina superior derecha"),
        ("a la izquierda", "en el borde izquierdo"),
        ("en el centro", "en el medio"),
        ("a la derecha", "en el borde derecho"),
        ("abajo a la izquierda", "en la esquina inferior izquierda"),
        ("abajo", "abajo en el centro"),
        ("abajo a la derecha", "en la esquina inferior derecha"),
    )

    def noun_phrase(self, thing: SceneObject, wording: Wording, case: str = NOMINATIVE) -> str:
        noun, gender = _SHAPES[thing.shape]
        form = "mf".index(gender)
        before = wording.variant % 2 == 0
        words = [("un", "una")[form]]
        if wording.size and before:
            words.append(_SIZES_BEFORE[thing.size][form])
        words += [noun, _COLOURS[thing.colour][form]]
        if wording.size and not before:
            words.append(_SIZES_AFTER[thing.size][form])
        if wording.texture:
            words.append(pick(tuple(forms[form] for forms in _TEXTURES[thing.texture]), wording.variant // 2))
        return " ".join(words)

    def several(self, thing: SceneObject, count: int, wording: Wording, case: str = NOMINATIVE) -> str:
        article, *words = self.noun_phrase(thing, wording).split(" ")
        del article
        return " ".join([_NUMBERS[count], *_plural(words)])

    def relation(self, first: SceneObject, second: SceneObject, wordings: tuple[Wording, Wording], where: str) -> str:
        return f"{self.noun_phrase(first, wordings[0])} {_RELATIONS[where]} {self.noun_phrase(second, wordings[1])}"

    def join(self, phrases: list[str]) -> str:
        return " y ".join([", ".join(phrases[:-1]), phrases[-1]]) if len(phrases) > 1 else phrases[0]


def _plural(words: list[str]) -> list[str]:
    """Returns the plural of every word before a phrase such as "a rayas"."""
    found = []  # type: ignore[var-annotated]  # an annotation would make the stored studies stale
    for i, word in enumerate(words):
        if word in ("a", "de", "con"):
            return found + words[i:]
        found.append(word if word in _WITHOUT_PLURAL else _PLURALS.get(word, word + "s"))
    return found
