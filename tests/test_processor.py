"""oneDNN is turned on where TensorFlow leaves it off although it is faster, and nowhere else."""

import os
import subprocess
import sys

from siglip_tf import processor


def test_the_switch_is_set_where_it_helps_and_nowhere_else(monkeypatch):
    plain = {"fma", "avx", "avx2"}
    cases = [
        (plain, None, False, True),
        (plain | {"avx512f"}, None, False, True),
        (plain | {"avx512_vnni"}, None, False, False),  # TensorFlow turns it on by itself
        (plain | {"avx_vnni"}, None, False, False),
        ({"sse4_2", "avx"}, None, False, False),
        (set(), None, False, False),
        (plain, "0", False, False),  # the user has chosen
        (plain, "1", False, False),
        (plain, None, True, False),  # TensorFlow has read it already
    ]
    for flags, chosen, imported, expected in cases:
        with monkeypatch.context() as patch:
            patch.setattr(processor, "_processor_flags", lambda flags=flags: flags)
            patch.setattr(processor, "_turned_on", set())
            patch.delenv(processor.SWITCH, raising=False)
            if chosen is not None:
                patch.setenv(processor.SWITCH, chosen)
            if not imported:
                patch.delitem(sys.modules, "tensorflow", raising=False)
            assert processor.use_onednn() is expected, (flags, chosen, imported)
            assert os.environ.get(processor.SWITCH) == ("1" if expected else chosen)
            assert (processor.notice() is not None) is expected
            os.environ.pop(processor.SWITCH, None)


def test_it_imports_nothing_heavy_and_knows_this_processor():
    code = (
        "import runpy, sys; module = runpy.run_path('siglip_tf/processor.py'); "
        "assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules); print(len(module['_processor_flags']()))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(printed) > 0 or sys.platform != "linux"


def test_memory_is_kept_unless_the_environment_says_how():
    code = (
        "import runpy; keep = runpy.run_path('siglip_tf/processor.py')['keep_memory']; print(keep()); "
        "import os; os.environ['MALLOC_ARENA_MAX_'] = '2'; print(keep())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert printed in (["True", "False"], ["False", "False"])  # False: another C library
