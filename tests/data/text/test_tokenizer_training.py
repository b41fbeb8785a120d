import gzip
import json
import random
import re

import pytest
import sentencepiece

from siglip_tf.data import Tokenizer
from siglip_tf.data.text.training import TextFiles, train_tokenizer
from siglip_tf.synthetic import LANGUAGES, SceneSource
from tools import train_tokenizer as tool


@pytest.fixture(scope="module")
def texts():
    source = SceneSource(languages=LANGUAGES, captions=1)
    return [text for i in range(150) for text in source.example(i).captions]


@pytest.fixture(scope="module")
def model(texts):
    return train_tokenizer(texts, 400)


def test_ids_are_those_of_siglip(model):
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert (processor.pad_id(), processor.eos_id(), processor.unk_id(), processor.bos_id()) == (0, 1, 2, -1)
    assert processor.get_piece_size() == 400


def test_ids_are_those_of_siglip2(texts):
    processor = sentencepiece.SentencePieceProcessor(model_proto=train_tokenizer(texts, 400, layout="siglip2"))
    assert (processor.pad_id(), processor.eos_id(), processor.bos_id(), processor.unk_id()) == (0, 1, 2, 3)


def test_the_graph_tokenises_as_sentencepiece_does(model, texts):
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = Tokenizer(model, 48)(texts[:60]).numpy()
    for row, text in zip(ids, texts[:60], strict=True):
        expected = processor.encode(text.lower())[:47]
        assert row.tolist() == expected + [1] * (48 - len(expected))
        assert 2 not in row, f"{text!r} has unknown pieces"


def test_the_same_texts_give_the_same_bytes_and_a_sample_is_seeded(texts):
    assert train_tokenizer(texts, 300) == train_tokenizer(iter(texts), 300)
    sampled = [train_tokenizer(texts, 300, max_texts=400, seed=seed) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


def test_case_is_lowered_unless_kept():
    shouting = ["A RED CIRCLE", "A Blue Square", "a green star"] * 40
    lower = sentencepiece.SentencePieceProcessor(model_proto=train_tokenizer(shouting, 40))
    kept = sentencepiece.SentencePieceProcessor(model_proto=train_tokenizer(shouting, 60, lower_case=False))
    pieces = [[p.id_to_piece(i) for i in range(p.get_piece_size())] for p in (lower, kept)]
    assert not any(character.isupper() for piece in pieces[0] for character in piece)
    assert any(character.isupper() for piece in pieces[1] for character in piece)


def test_bytes_spell_what_the_corpus_never_showed(texts):
    tokenizer = Tokenizer(train_tokenizer(texts, 600, byte_fallback=True), 32)
    assert 2 not in tokenizer(["日本 🎈"]).numpy()


def test_bpe_makes_pieces_of_whole_words_where_words_are_few():
    source = SceneSource(captions=4)
    english = [text for i in range(300) for text in source.texts(i)]
    processor = sentencepiece.SentencePieceProcessor(model_proto=train_tokenizer(english, 600, model_type="bpe"))
    assert processor.encode("a large red circle", out_type=str) == ["▁a", "▁large", "▁red", "▁circle"]


def test_long_texts_and_line_breaks_are_read_whole(texts):
    rare = "zebra " * 3000
    processor = sentencepiece.SentencePieceProcessor(model_proto=train_tokenizer([*texts, rare, "a\nquokka\n\n"], 500))
    assert 2 not in processor.encode("zebra quokka")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": 3}, "vocab_size must be at least 8"),
        ({"vocab_size": 200, "byte_fallback": True}, "at least 264"),
        ({"vocab_size": 10}, "no vocabulary of 10 pieces"),
        ({"layout": "gpt"}, "layout must be one of siglip, siglip2"),
        ({"model_type": "char"}, "model_type must be one of unigram, bpe"),
        ({"character_coverage": 0.5}, "character_coverage"),
        ({"max_texts": 0}, "max_texts"),
    ],
)
def test_bad_arguments_are_named(texts, arguments, message):
    with pytest.raises(ValueError, match=message):
        train_tokenizer(texts, **arguments)


def test_no_text_is_an_error():
    with pytest.raises(ValueError, match="no text"):
        train_tokenizer(["", "  \n"], 100)


def test_files_of_every_kind_are_streamed_and_broken_records_counted(tmp_path):
    (tmp_path / "a.txt").write_bytes("one\n\ntwo\u2028half\nb\xffd\n".encode("latin-1", "ignore"))
    with gzip.open(tmp_path / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write('{"caption": "drei"}\n{"caption": ["vier", "fünf"]}\nnot json\n[1]\n{"other": 1}\n\n')
    (tmp_path / "c.csv").write_text('image,caption\n1.png,"six, ""quoted""\nand broken"\n2.png,\n', encoding="utf-8")
    (tmp_path / "d.tsv").write_text("caption\timage\nseven\tx\n", encoding="utf-8")
    files = TextFiles([str(tmp_path / name) for name in ("a.txt", "b.jsonl.gz", "c.csv", "d.tsv")])
    read = [text.strip() for text in files]
    assert read == ["one", "twohalf", "drei", "vier", "fünf", 'six, "quoted"\nand broken', "seven"]
    assert files.texts == 7
    assert files.skipped == {"not UTF-8": 1, "not JSON": 1, "not a JSON object": 1, "no text": 2}


def test_byte_order_marks_long_cells_and_stray_quotes(tmp_path):
    mark = b"\xef\xbb\xbf"
    (tmp_path / "a.txt").write_bytes(mark + b"one\n")
    (tmp_path / "b.jsonl").write_bytes(mark + b'{"caption": "two"}\n')
    (tmp_path / "c.csv").write_bytes(mark + b"caption\n" + b"x" * 200_000 + b"\n")
    (tmp_path / "d.tsv").write_bytes(mark + b'caption\timage\n"hello\ta.png\n5" wide\tb.png\n')
    (tmp_path / "e.txt.gz").write_bytes(gzip.compress(mark + b"three\n"))
    files = TextFiles([str(tmp_path / name) for name in ("a.txt", "b.jsonl", "c.csv", "d.tsv", "e.txt.gz")])
    assert [text.strip() for text in files] == ["one", "two", "x" * 200_000, '"hello', '5" wide', "three"]
    cases = {
        "wide.csv": ("caption\nx\n".encode("utf-16"), "wide.csv is UTF-16 text. Convert it to UTF-8 first"),
        "semicolons.csv": (b"image;caption\na;b\n", "Its first line holds ';' instead"),
        "torn.txt.gz": (gzip.compress(b"text " * 99)[:-9], "torn.txt.gz is not a whole gzip file"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            list(TextFiles([str(tmp_path / name)]))


def test_captions_are_read_whole(tmp_path):
    """Byte order marks, separators of other kinds, one stray quote, and a long field."""
    long = "word " * 40_000
    (tmp_path / "a.csv").write_text(f'caption,image\n"a\u2028b\x85c\x0cd",1\n{long},2\n', encoding="utf-8-sig")
    (tmp_path / "b.tsv").write_text('caption\timage\na 5" screen\t1\na cat\t2\n', encoding="utf-8-sig")
    (tmp_path / "c.txt").write_text("one\x85two\n\u3000\n", encoding="utf-8-sig")
    files = TextFiles([str(tmp_path / name) for name in ("a.csv", "b.tsv", "c.txt")])
    assert list(files) == ["a\u2028b\x85c\x0cd", long, 'a 5" screen', "a cat", "one\x85two\n"]
    assert not files.skipped


def test_what_files_cannot_be_is_said(tmp_path):
    (tmp_path / "a.csv").write_text("image,text\n1,x\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"no column 'caption'. Its columns are image, text"):
        list(TextFiles([str(tmp_path / "a.csv")]))
    with pytest.raises(FileNotFoundError, match="missing.txt"):
        TextFiles([str(tmp_path / "missing.txt")])
    with pytest.raises(ValueError, match=r"Expected a .txt"):
        TextFiles([str(tmp_path / "a.parquet")])


def test_the_command_trains_and_says_what_it_did(tmp_path, capfd):
    source = SceneSource(captions=3)
    with open(tmp_path / "captions.jsonl", "w", encoding="utf-8") as file:
        for i in random.Random(0).sample(range(1000), 200):
            file.write(json.dumps({"texts": source.example(i).captions}) + "\n")
        file.write("broken\n")
    output = tmp_path / "new" / "t.model"
    arguments = [str(tmp_path / "captions.jsonl"), "--field", "texts", "--vocab-size", "120", "--output", str(output)]
    assert tool.main(arguments) == 0
    shown = capfd.readouterr()
    assert re.search(r"t\.model: 1[01]\d pieces, ", shown.out)
    assert "texts read 600; left out: 1 not JSON" in shown.out
    assert "Read 600 texts" in shown.err
    assert [path.name for path in output.parent.iterdir()] == ["t.model"]
    assert Tokenizer.from_file(output, 16)(["a red circle"]).shape == (1, 16)
    assert tool.main([str(tmp_path / "gone.txt")]) == 2
    assert "error: There is no file" in capfd.readouterr().err


@pytest.mark.slow
def test_hugging_faces_tokenizer_loads_it_and_agrees(tmp_path, model, texts):
    transformers = pytest.importorskip("transformers")
    path = tmp_path / "spiece.model"
    path.write_bytes(model)
    theirs = transformers.SiglipTokenizer(str(path), model_max_length=32)
    ours = Tokenizer(model, 32, punctuation="strip")
    for text in texts[:50]:
        ids = theirs(text, padding="max_length", truncation=True)["input_ids"]
        assert ours([text]).numpy()[0].tolist() == ids
