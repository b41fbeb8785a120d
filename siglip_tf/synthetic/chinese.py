"""Captions in simplified Chinese. There is no inflection and there are no spaces. The place comes before the object."""

from siglip_tf.synthetic.composition import SceneObject
from siglip_tf.synthetic.grammar import NOMINATIVE, Grammar, Sentence, Wording, pick

_SHAPES = {
    "circle": ("圆形", "圆形", "圆"),
    "square": ("正方形", "正方形", "方块"),
    "triangle": "三角形",
    "star": ("星形", "星形", "星星"),
    "cross": "十字",
    "ring": "圆环",
    "heart": ("心形", "心形", "爱心"),
    "crescent": ("月牙", "月牙", "弯月"),
    "diamond": "菱形",
    "arrow": "箭头",
}
_COLOURS = {
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "blue": "蓝色",
    "purple": "紫色",
    "pink": "粉色",
    "brown": "棕色",
    "white": "白色",
    "black": "黑色",
}
_TEXTURES = {
    "plain": ("纯色的", "没有花纹的"),
    "striped": ("带条纹的", "有条纹的"),
    "dotted": ("带圆点的", "有圆点的"),
    "checked": ("带方格的", "有方格的"),
}
_SIZES = {"small": ("小的", "很小的"), "large": ("大的", "很大的")}
_NUMBERS = {2: "两个", 3: "三个"}
_RELATIONS = {"above": "上方", "below": "下方", "left": "左边", "right": "右边"}


class Chinese(Grammar):
    """左上角有一个大的带条纹的红色圆形"""

    code = "zh"
    subject_sentences = (
        Sentence("{}"),
        Sentence("一张图片,上面是{}"),
        Sentence("这是{}"),
        Sentence("图片里有{}"),
        Sentence("这里有{}"),
        Sentence("画的是{}"),
        Sentence("可以看到{}"),
    )
    list_sentences = (
        Sentence("{}"),
        Sentence("图片里{}"),
        Sentence("我们看到{}"),
        Sentence("这张图片中{}"),
    )
    count_sentences = (
        (Sentence("两个图形:{}"), Sentence("两个东西,{}")),
        (Sentence("三个图形:{}"), Sentence("三个东西,{}")),
    )
    places = (
        ("左上角", "左上方"),
        ("上方", "上面中间"),
        ("右上角", "右上方"),
        ("左侧", "左边"),
        ("中间", "中央"),
        ("右侧", "右边"),
        ("左下角", "左下方"),
        ("下方", "下面中间"),
        ("右下角", "右下方"),
    )
    placed_pattern = "{place}有{phrase}"

    def noun_phrase(self, thing: SceneObject, wording: Wording, case: str = NOMINATIVE) -> str:
        words = ["一个"]
        if wording.size:
            words.append(pick(_SIZES[thing.size], wording.variant))
        if wording.texture:
            words.append(pick(_TEXTURES[thing.texture], wording.variant))
        return "".join([*words, _COLOURS[thing.colour], pick(_SHAPES[thing.shape], wording.variant)])

    def several(self, thing: SceneObject, count: int, wording: Wording, case: str = NOMINATIVE) -> str:
        return self.noun_phrase(thing, wording, case).replace("一个", _NUMBERS[count], 1)

    def relation(self, first: SceneObject, second: SceneObject, wordings: tuple[Wording, Wording], where: str) -> str:
        return f"{self.noun_phrase(first, wordings[0])}在{self.noun_phrase(second, wordings[1])}的{_RELATIONS[where]}"

    def join(self, phrases: list[str]) -> str:
        return ",".join(phrases)
