from pathlib import Path

import pytest
from written_experiment import Ablation, Experiment


@pytest.fixture
def ablation(tmp_path: Path) -> Ablation:
    made = Ablation(tmp_path)
    made.write()
    return made


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    made = Experiment(tmp_path)
    made.write()
    return made
