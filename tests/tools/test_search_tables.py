"""Tables of embeddings are read by PyArrow, DuckDB, and numpy, and read what those write."""

import shutil

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.example_model import example_model
from tests.tools.test_search import PICTURES, fill, vectors
from tools import search
from tools.search.compression import Compression
from tools.search.exchange import import_table
from tools.search.index import Index, Towers
from tools.search.tables import Table, read_table, write_table


def unit(rng, rows, dim=24):
    drawn = rng.normal(size=(rows, dim)) * np.geomspace(1, 0.02, dim)
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def table(rng):
    paths = [f"deep/{i} ü.jpg" for i in range(60)]
    return Table(np.arange(60) * 10**15, paths, unit(rng, 60), {"checkpoint": "c", "fingerprint": "f"})


def test_other_tools_read_what_is_written(table, tmp_path):
    for suffix in (".parquet", ".npz", ".duckdb"):
        path = tmp_path / f"table{suffix}"
        write_table(path, table)
        write_table(path, table)  # in place of the old one
        again = read_table(path)
        assert (again.paths, again.ids.tolist()) == (table.paths, table.ids.tolist())
        assert again.model == table.model
        np.testing.assert_allclose(again.vectors, table.vectors, rtol=0, atol=1e-6)
        assert again.search(table.vectors[7], 3)[0][0] == 7
    assert sorted(p.name for p in tmp_path.iterdir()) == ["table.duckdb", "table.npz", "table.parquet"]

    rows = pq.read_table(tmp_path / "table.parquet").to_pydict()
    assert list(rows) == ["id", "path", "embedding"]
    assert rows["path"] == table.paths
    np.testing.assert_array_equal(np.array(rows["embedding"], np.float32), table.vectors)
    with np.load(tmp_path / "table.npz") as arrays:
        np.testing.assert_array_equal(arrays["embedding"], table.vectors)

    query = table.vectors[3] + 0.1
    expected = [table.paths[i] for i in np.argsort(-(table.vectors @ query))[:5]]
    with duckdb.connect(str(tmp_path / "table.duckdb"), read_only=True) as connection:
        found = connection.execute(
            f"SELECT path FROM embeddings ORDER BY array_inner_product(embedding, ?::FLOAT[{len(query)}]) DESC LIMIT 5",
            [query.tolist()],
        ).fetchall()
        assert [name for (name,) in found] == expected
        found = connection.execute(
            f"SELECT path FROM '{tmp_path}/table.parquet' "
            "ORDER BY list_cosine_similarity(embedding::FLOAT[], ?::FLOAT[]) DESC LIMIT 5",
            [query.tolist()],
        ).fetchall()
        assert [name for (name,) in found] == expected


def test_what_other_tools_write_is_read(table, tmp_path):
    rows = 3 * table.vectors.astype(np.float64)  # of another length
    lists = {
        "list of float64": pa.array(rows.tolist(), pa.list_(pa.float64())),
        "large list of float16": pa.array(rows.astype(np.float16).tolist(), pa.large_list(pa.float16())),
        "fixed size list": pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float32).ravel()), rows.shape[1]),
    }
    path = tmp_path / "theirs.parquet"
    for name, embedding in lists.items():
        whole = pa.table({"more": range(60), "embedding": embedding, "path": table.paths})
        # A slice has an offset; several row groups become several chunks.
        pq.write_table(whole.slice(5), path, row_group_size=7)
        found = read_table(path)
        assert found.paths == table.paths[5:], name
        assert found.ids.tolist() == list(range(55))
        np.testing.assert_allclose(found.vectors, table.vectors[5:], rtol=0, atol=2e-3 if "16" in name else 1e-6)
    with duckdb.connect() as connection:
        made = pa.table({"id": range(60), "path": table.paths, "embedding": lists["list of float64"]})
        connection.register("made", made)
        connection.execute(f"COPY (SELECT id, path, embedding::FLOAT[24] AS embedding FROM made) TO '{path}'")
        np.testing.assert_allclose(read_table(path).vectors, table.vectors, rtol=0, atol=1e-6)
        connection.execute(f"ATTACH '{tmp_path}/theirs.duckdb' AS theirs")
        connection.execute("CREATE TABLE theirs.embeddings AS SELECT path, embedding FROM made")
    np.testing.assert_allclose(read_table(tmp_path / "theirs.duckdb").vectors, table.vectors, rtol=0, atol=1e-6)
    np.savez(tmp_path / "theirs.npz", path=table.paths, embedding=rows)
    np.testing.assert_allclose(read_table(tmp_path / "theirs.npz").vectors, table.vectors, rtol=0, atol=1e-6)


def test_bad_tables_are_refused(table, tmp_path):
    vectors = table.vectors.tolist()
    zero, nan = [[0.0] * 24], [[float("nan")] * 24]
    columns = [
        ({"path": ["a"], "vector": vectors[:1]}, "expected columns id, path, and embedding"),
        ({"path": ["a", "b"], "embedding": [vectors[0], vectors[1][:5]]}, "of one width"),
        ({"path": ["a", "b"], "embedding": [vectors[0], None]}, "1 empty values"),
        ({"path": ["a", None], "embedding": vectors[:2]}, "1 empty values"),
        ({"path": ["a"], "embedding": [["x"]]}, "lists of numbers"),
        ({"path": ["a"], "embedding": [1.0]}, "lists of numbers"),
        ({"path": ["a", "b"], "embedding": vectors[:1] + zero}, "row 1 (b) is zero or not finite"),
        ({"path": ["a"], "embedding": nan}, "row 0 (a) is zero or not finite"),
    ]
    path = tmp_path / "bad.parquet"
    for values, message in columns:
        pq.write_table(pa.table(values), path)
        with pytest.raises(ValueError) as caught:
            read_table(path)
        assert message in str(caught.value)
    for suffix in (".parquet", ".npz", ".duckdb"):
        path = tmp_path / f"bad{suffix}"
        path.write_bytes(b"nothing of the kind" * 10)
        with pytest.raises(ValueError, match=f"bad{suffix} is not a"):
            read_table(path)
        with pytest.raises(ValueError, match="nothing of that name"):
            read_table(tmp_path / f"none{suffix}")
    np.savez(tmp_path / "pickled.npz", path=np.array(["a"], object), embedding=vectors[:1])
    with pytest.raises(ValueError, match="plain arrays"):
        read_table(tmp_path / "pickled.npz")
    with duckdb.connect(str(tmp_path / "other.duckdb")) as connection:
        connection.execute("CREATE TABLE other (x INTEGER)")
    with pytest.raises(ValueError, match="expected a table embeddings. Received: other"):
        read_table(tmp_path / "other.duckdb")
    with pytest.raises(ValueError, match=r"ends with \.parquet, \.npz, \.duckdb"):
        write_table(tmp_path / "x.csv", table)


def test_smaller_vectors(table, tmp_path, rng):
    exact = [i for i, _ in table.search(table.vectors[0], 10)]
    for suffix in (".parquet", ".npz"):
        path = tmp_path / f"small{suffix}"
        write_table(path, table, Compression.fitted(table.vectors, int8=True))
        found = read_table(path)
        assert np.min(np.sum(found.vectors * table.vectors, axis=1)) > 0.9995
        write_table(path, table, Compression.fitted(table.vectors, 12, int8=True))
        found = read_table(path)
        assert (found.vectors.shape, found.projection.shape) == ((60, 12), (24, 12))
        again = found.search(table.vectors[0], 10)
        assert len({*exact} & {i for i, _ in again}) >= 8
        assert again[0][1] == pytest.approx(1, abs=0.1)
    assert pq.read_schema(tmp_path / "small.parquet").field("embedding").type.value_type == pa.int8()
    # The directions are those that numpy's singular values order.
    projection = Compression.fitted(table.vectors, 5).projection
    singular = np.linalg.svd(table.vectors, compute_uv=False)[:5]
    np.testing.assert_allclose(np.linalg.norm(table.vectors @ projection, axis=0), singular, rtol=1e-4)
    with pytest.raises(ValueError, match="DuckDB tables hold float32"):
        write_table(tmp_path / "x.duckdb", table, Compression.fitted(table.vectors, int8=True))
    with pytest.raises(ValueError, match="from 1 to 23"):
        Compression.fitted(table.vectors, 24)
    with pytest.raises(ValueError, match="at least 20 vectors"):
        Compression.fitted(unit(rng, 12), 10)


def test_commands(model, checkpoint, tmp_path, capsys):
    folder, copy = tmp_path / "pictures", tmp_path / "copy"
    fill(folder)
    assert search.main(["export", str(folder), str(tmp_path / "x.parquet")]) == 1
    assert "has no index" in capsys.readouterr().err
    assert search.main(["index", str(folder), "--model", checkpoint]) == 0
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(".siglip_search"))
    capsys.readouterr()
    assert search.main(["query", "a red circle", str(folder), "-n", "4"]) == 0
    expected = [(line.split()[0], line.split("/")[-1]) for line in capsys.readouterr().out.splitlines()[1:]]
    for suffix in (".parquet", ".npz", ".duckdb"):
        table = tmp_path / f"table{suffix}"
        assert search.main(["export", str(folder), str(table)]) == 0
        assert search.main(["query", "a red circle", str(table), "-n", "4"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"Wrote 9 rows of id, path, and embedding to {table}."
        assert [(line.split()[0], line.split("/")[-1].split()[-1]) for line in lines[2:]] == expected

    assert search.main(["import", str(tmp_path / "table.parquet"), str(copy)]) == 0
    assert "9 pictures can be found" in capsys.readouterr().out
    assert search.main(["index", str(copy)]) == 0
    assert "1 pictures embedded, 9 known before" in capsys.readouterr().out  # the torn one has no vector


def test_vectors_of_another_model_are_refused(model, tmp_path):
    folder = tmp_path / "pictures"
    fill(folder)
    towers, paths = Towers(model), [str(folder / "0.jpg"), "2.jpg", "gone.jpg"]
    path = tmp_path / "table.npz"
    right = vectors(model)[[0, 2, 4]]
    np.savez(path, path=paths, embedding=right[:, ::-1])
    with pytest.raises(ValueError, match="is not this model's: their cosine is"):
        import_table(Index(folder), path, towers, "tiny", None)
    np.savez(path, path=paths, embedding=right[:, :7])
    with pytest.raises(ValueError, match="vectors of 7 numbers; the model makes 32"):
        import_table(Index(folder), path, towers, "tiny", None)
    np.savez(path, path=["x", "../y.jpg"], embedding=right[:2])
    with pytest.raises(ValueError, match="is a picture in"):
        import_table(Index(folder), path, towers, "tiny", None)
    write_table(path, Table(np.arange(3), paths, right, {"fingerprint": "other", "checkpoint": "that"}))
    with pytest.raises(ValueError, match="made by another model, from that"):
        import_table(Index(folder), path, towers, "tiny", None)
    assert not (folder / ".siglip_search").exists()
    np.savez(path, path=paths, embedding=right)
    found = import_table(Index(folder), path, towers, "tiny", None)
    assert (found.used, found.elsewhere) == (2, ["gone.jpg"])
    index = Index(folder).load()
    assert [index.files[i].path for i, _ in index.search(towers.image(PICTURES[2]), 1)] == ["2.jpg"]
    with pytest.raises(ValueError, match="made by another model than this one"):
        import_table(Index(folder), path, Towers(example_model("bicubic_antialias")), "other", None)
