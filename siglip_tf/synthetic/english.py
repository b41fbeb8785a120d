"""English captions."""

from siglip_tf.synthetic.composition import SceneObject
from siglip_tf.synthetic.grammar import NOMINATIVE, Grammar, Sentence, Wording, pick

_SHAPES = {
    "circle": ("circle", "circle", "disc"),
    "square": "square",
    "triangle": "triangle",
    "star": "star",
    "cross": ("cross", "cross", "plus sign"),
    "ring": ("ring", "ring", "hoop"),
    "heart": "heart",
    "crescent": ("crescent", "crescent moon", "moon"),
    "diamond": ("diamond", "diamond", "rhombus"),
    "arrow": "arrow",
}
_COLOURS = {"purple": ("purple", "purple", "violet")}
_TEXTURES = {
    "plain": ("plain", "solid"),
    "striped": "striped",
    "dotted": ("dotted", "spotted"),
    "checked": ("checked", "chequered"),
}
_SIZES = {"small": ("small", "little", "tiny"), "large": ("large", "big")}
_NUMBERS = {2: "two", 3: "three"}
_RELATIONS = {"above": "above", "below": "below", "left": "to the left of", "right": "to the right of"}


class English(Grammar):
    """a large striped red circle at the top left"""

    code = "en"
    subject_sentences = (
        Sentence("{}"),
        Sentence("a picture of {}"),
        Sentence("this is {}", plural="these are {}"),
        Sentence("an image with {}"),
        Sentence("there is {} here", plural="there are {} here"),
        Sentence("a drawing of {}"),
        Sentence("look, {}"),
    )
    list_sentences = (
        Sentence("{}"),
        Sentence("a picture with {}"),
        Sentence("here we see {}"),
        Sentence("this picture shows {}"),
    )
    count_sentences = (
        (Sentence("two shapes: {}"), Sentence("two things, {}")),
        (Sentence("three shapes: {}"), Sentence("three things, {}")),
    )
    places = (
        ("at the top left", "in the upper left corner"),
        ("at the top", "at the top in the middle"),
        ("at the top right", "in the upper right corner"),
        ("on the left", "at the left edge"),
        ("in the middle", "in the centre"),
        ("on the right", "at the right edge"),
        ("at the bottom left", "in the lower left corner"),
        ("at the bottom", "at the bottom in the middle"),
        ("at the bottom right", "in the lower right corner"),
    )

    def noun_phrase(self, thing: SceneObject, wording: Wording, case: str = NOMINATIVE) -> str:
        words = []
        if wording.size:
            words.append(pick(_SIZES[thing.size], wording.variant))
        if wording.texture:
            words.append(pick(_TEXTURES[thing.texture], wording.variant))
        words += [
            pick(_COLOURS.get(thing.colour, thing.colour), wording.variant),
            pick(_SHAPES[thing.shape], wording.variant),
        ]
        return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])

    def several(self, thing: SceneObject, count: int, wording: Wording, case: str = NOMINATIVE) -> str:
        words = self.noun_phrase(thing, wording).split()[1:]  # without the article
        ending = "es" if words[-1].endswith("s") else "s"
        return " ".join([_NUMBERS[count], *words]) + ending

    def relation(self, first: SceneObject, second: SceneObject, wordings: tuple[Wording, Wording], where: str) -> str:
        return f"{self.noun_phrase(first, wordings[0])} {_RELATIONS[where]} {self.noun_phrase(second, wordings[1])}"

    def join(self, phrases: list[str]) -> str:
        return " and ".join([", ".join(phrases[:-1]), phrases[-1]]) if len(phrases) > 1 else phrases[0]
