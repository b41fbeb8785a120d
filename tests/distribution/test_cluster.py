"""TF_CONFIG is right, or refused in a sentence that names it, before any server starts."""

import contextlib
import json
import socket
import threading
import time

import pytest
import tensorflow as tf

from siglip_tf.distribution import find_strategy, finding, rendezvous
from siglip_tf.distribution.cluster import Cluster, check_own_port, rank_in_cluster, read_tf_config

HOSTS = ["10.0.0.1:3333", "10.0.0.2:3333", "10.0.0.3:3333"]


def config(tasks, role="worker", index=0, **more):
    return json.dumps({"cluster": tasks, "task": {"type": role, "index": index}, **more})


def test_ranks_are_counted_over_all_roles():
    of_chief = {"chief": HOSTS[:1], "worker": HOSTS[1:]}
    cases = [
        (config({"worker": HOSTS}, index=2), HOSTS, 2),
        (config({"worker": HOSTS}, index="1"), HOSTS, 1),
        (config(of_chief, "chief"), HOSTS, 0),
        (config(of_chief, "worker", 0), HOSTS, 1),
        (config(of_chief, "worker", 1, environment="cloud", job={}), HOSTS, 2),
        (config({"worker": HOSTS[1:], "chief": HOSTS[:1]}, "worker", 1), HOSTS, 2),
        (config({**of_chief, "evaluator": ["10.0.0.9:1"]}, "worker", 1), HOSTS, 2),
        (config({"chief": HOSTS[:1]}, "chief"), HOSTS[:1], 0),
        (config({"chief": HOSTS[:1], "worker": []}, "chief"), HOSTS[:1], 0),
    ]
    for text, addresses, rank in cases:
        found = read_tf_config(text)
        assert (found.addresses, found.rank) == (addresses, rank), text
        resolver = found.resolver()
        assert rank_in_cluster(resolver) == rank
        assert "evaluator" not in resolver.cluster_spec().as_dict()


def test_no_cluster_is_one_machine():
    for text in (None, "", "  ", "{}", '{"cluster": {}}', '{"task": {"type": "worker", "index": 0}}'):
        assert read_tf_config(text) is None


def test_what_cannot_train_is_refused_by_name(monkeypatch):
    workers = {"worker": HOSTS}
    cases = [
        ("{'cluster': 1}", "JSON such as"),
        ('{"cluster": ', "JSON such as"),
        ("host0:3333,host1:3333", "JSON such as .*host0:3333"),
        ("[1, 2]", r"a JSON object.*\[1, 2\]"),
        ('"text"', "a JSON object"),
        ("null", "a JSON object"),
        ('{"cluster": ["a:1"], "task": {"type": "worker", "index": 0}}', "an object of roles"),
        ('{"task": {"type": "worker", "index": 1}}', "lists all workers"),
        (json.dumps({"cluster": workers}), '"task" such as.*null'),
        (json.dumps({"cluster": workers, "task": {"type": "worker"}}), '"task" such as'),
        (json.dumps({"cluster": workers, "task": {"index": 0}}), '"task" such as'),
        (json.dumps({"cluster": workers, "task": [0]}), '"task" such as'),
        (config(workers, index=3), "an index of worker from 0 to 2. Received: 3"),
        (config(workers, index=-1), "an index of worker .*-1"),
        (config(workers, index=1.0), "an index of worker .*1.0"),
        (config(workers, index=True), "an index of worker .*true"),
        (config(workers, index="first"), "an index of worker"),
        (config(workers, "chief"), r"whose type is in the cluster, \['worker'\].*chief"),
        (config(workers, "Worker"), "whose type is in the cluster"),
        (config(workers, ["worker"]), "whose type is in the cluster"),
        (config({**workers, "ps": ["10.0.0.9:1"]}), "no parameter servers.*10.0.0.9:1"),
        (config({**workers, "ps": ["10.0.0.9:1"]}, "ps"), "no parameter servers"),
        (config({**workers, "evaluator": ["10.0.0.9:1"]}, "evaluator"), "would train a run of its own"),
        (config({"master": HOSTS[:1]}, "master"), 'the role "master"'),
        (config({"chief": HOSTS[:2], "worker": HOSTS[2:]}), 'at most one "chief"'),
        (config({"worker": "10.0.0.1:3333"}), "as a list of addresses"),
        (config({"worker": []}), 'at least one "worker"'),
        (config({"worker": [*HOSTS, HOSTS[1]]}), "10.0.0.2:3333 for worker 1 and worker 3"),
        (config({"chief": HOSTS[:1], "worker": HOSTS}), "10.0.0.1:3333 for chief 0 and worker 0"),
        (config({"worker": ["10.0.0.1", "b:1"]}), 'an address "host:port" for worker 0.*10.0.0.1'),
        (config({"worker": ["a:1", "b:70000"]}), "for worker 1.*b:70000"),
        (config({"worker": ["a:1", 7]}), "for worker 1.*7"),
        (config({"worker": ["a:1", ""]}), "for worker 1"),
    ]

    def never(*_, **__):
        raise AssertionError("a strategy was made")

    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", never)
    monkeypatch.setattr(finding, "local_strategy", never)
    for text, message in cases:
        monkeypatch.setenv("TF_CONFIG", text)
        with pytest.raises(ValueError, match=f"^TF_CONFIG: Expected .*{message}"):
            find_strategy()


def test_a_port_that_is_taken_is_refused_and_one_that_was_used_is_not(monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        text = config({"worker": [f"127.0.0.1:{port}", "127.0.0.1:1"]})
        monkeypatch.setenv("TF_CONFIG", text)
        with pytest.raises(ValueError, match=f"TF_CONFIG: Expected a free port.*127.0.0.1:{port}.*the same index"):
            find_strategy()
    check_own_port(read_tf_config(text))


def test_one_worker_in_tf_config_is_this_machine(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config({"chief": HOSTS[:1]}, "chief"))
    assert find_strategy() is tf.distribute.get_strategy()


def of_loopback(workers):
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(workers)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{probe.getsockname()[1]}" for probe in probes]


def met(clusters, *limits):
    """What `meet` ends with for each of several processes, threads here; None where it returns."""
    ends = [None] * len(clusters)

    def run(i):
        try:
            rendezvous.meet(clusters[i], limits[i] if limits else 20.0)
        except (ValueError, TimeoutError) as error:
            ends[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(clusters))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return ends


def test_all_workers_meet_whoever_comes_first():
    addresses = of_loopback(3)
    tasks = {"chief": addresses[:1], "worker": addresses[1:]}
    places = [("worker", 1), ("chief", 0), ("worker", 0)]
    assert met([Cluster(tasks, *place) for place in places]) == [None] * 3


def test_two_of_one_index_and_two_clusters_are_told_to_everyone():
    tasks = {"worker": of_loopback(3)}
    for error in met([Cluster(tasks, "worker", index) for index in (0, 1, 1)])[:2]:
        assert "TF_CONFIG: Expected one process for each task" in str(error) and tasks["worker"][1] in str(error)
    first = {"worker": of_loopback(2)}
    other = {"worker": [first["worker"][0], "127.0.0.1:1"]}
    for error in met([Cluster(first, "worker", 0), Cluster(other, "worker", 1)]):
        assert "TF_CONFIG: Expected the same cluster" in str(error) and "127.0.0.1:1" in str(error)


def test_who_never_comes_is_named_and_nobody_waits_for_ever(monkeypatch, capfd):
    monkeypatch.setattr(rendezvous, "_FIRST_WORD_SECONDS", 0.2)
    tasks = {"worker": of_loopback(3)}
    first, second = met([Cluster(tasks, "worker", 0), Cluster(tasks, "worker", 1)], 1.0, 3.0)
    assert isinstance(first, TimeoutError) and tasks["worker"][2] in str(first)
    assert isinstance(second, TimeoutError) and "gave up" in str(second)
    said = capfd.readouterr().err
    assert "TF_CONFIG: waiting for" in said and f"worker 2 ({tasks['worker'][2]})" in said


def test_strangers_and_a_worker_that_starts_again_are_no_second_ones():
    tasks = {"worker": of_loopback(2)}
    host, port = tasks["worker"][0].split(":")
    found = []
    thread = threading.Thread(target=lambda: found.extend(met([Cluster(tasks, "worker", 0)])))
    thread.start()
    end = time.monotonic() + 20
    for line in (b"GET / HTTP/1.1\n", None):
        hello = {"rank": 1, "cluster": rendezvous._fingerprint(Cluster(tasks, "worker", 1))}
        while True:
            try:
                with socket.create_connection((host, int(port))) as stranger:
                    stranger.sendall(line or json.dumps(hello).encode()[:-5])  # ends in the middle of its hello
                break
            except ConnectionRefusedError:
                assert time.monotonic() < end
                time.sleep(0.05)
    assert met([Cluster(tasks, "worker", 1)]) == [None]
    thread.join(60)
    assert found == [None]
