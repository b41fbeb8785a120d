"""The README's plain Keras script runs as it is printed, with the stock callbacks, and goes on when it is run again."""

import contextlib
import pathlib
import re
import runpy

import keras
import numpy as np
import pytest
import tensorflow as tf

import siglip_tf
from tests.models import small

README = pathlib.Path(__file__).parents[2] / "README.md"


def test_the_readmes_script_runs_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (script,) = [
        block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "model.fit(" in block
    ]
    (tmp_path / "script.py").write_text(script)
    made = runpy.run_path(str(tmp_path / "script.py"))
    assert made["model"].optimizer.iterations.numpy() > 0
    (saved,) = tmp_path.rglob("*.keras")
    again = keras.models.load_model(saved)
    for name, variable in made["model"].named_weights().items():
        np.testing.assert_array_equal(variable.numpy(), again.named_weights()[name].numpy(), err_msg=name)


@pytest.mark.slow
def test_stock_callbacks_go_on_after_an_interruption(tmp_path):
    """BackupAndRestore: a run that stops in its third epoch and is started again ends as one that never stopped."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def fit(folder, *callbacks):
        keras.utils.set_random_seed(1)
        model = small.model()
        model.compile(keras.optimizers.AdamW(1e-2, weight_decay=1e-4, beta_2=0.95, global_clipnorm=1.0))
        stock = [
            keras.callbacks.BackupAndRestore(str(tmp_path / folder)),
            keras.callbacks.ModelCheckpoint(str(tmp_path / f"{folder}.keras")),
            keras.callbacks.EarlyStopping("loss", patience=3),
            *callbacks,
        ]
        history = model.fit(small.dataset(8, 2), epochs=4, verbose=0, callbacks=stock)
        return model, history.epoch

    whole, epochs = fit("whole")
    assert epochs == [0, 1, 2, 3]
    with contextlib.suppress(KeyboardInterrupt):
        fit("halves", Stop())
    halves, epochs = fit("halves")
    assert epochs == [2, 3]
    for name, variable in whole.named_weights().items():
        np.testing.assert_array_equal(variable.numpy(), halves.named_weights()[name].numpy(), err_msg=name)
    assert isinstance(keras.models.load_model(tmp_path / "halves.keras"), siglip_tf.SigLIP)
    assert tf.io.gfile.exists(str(tmp_path / "whole.keras"))
