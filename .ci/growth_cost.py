"""What a training step costs while a network grows, for the questions about that: `python .ci/growth_cost.py`, on a machine with nothing else to do.

Goes to nbs/results/growth-cost.json. How fast a step is beside a plain loop is measured by `sisr bench`."""
import json
from pathlib import Path
import torch
from sisr.duel import machine
from sisr.experiments import PSNR, QUESTIONS, step_costs

if __name__ == '__main__':
    torch.set_num_threads(1)
    m, costs = machine(turns=1), {q: step_costs(QUESTIONS[q]) for q in PSNR}
    to = Path(__file__).resolve().parent.parent/'nbs'/'results'/'growth-cost.json'
    to.write_text(json.dumps(dict(device=m['device'], torch=m['torch'], threads=1, seconds=costs))+'\n')
