"""Trains Pocket from nothing, on one or two CPU cores.

    python train.py --out pocket-training

The stages are the table below. A run that is stopped goes on where its last checkpoint left it when the same command is given
again. Batches are made from the seed, the stage and the step; the numbers still differ a little between machines, because
floating-point sums do.
"""

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Subset

from batches import NONE_COLOUR, NONE_KIND, Batches, Words
from model import HIDDEN, encode, make_model, read
from pictures import KINDS, QUESTION_KINDS


@dataclass
class Stage:
    number: int
    name: str
    steps: int
    tiles: tuple  # shares of pictures with 1, 2, 3 and 4 tiles
    pictures: tuple  # pictures in a step with 1, 2, 3 and 4 tiles
    matrix_rate: tuple  # Muon's learning rate at the beginning and at the end
    rate: float  # AdamW's, falls in the same proportion
    vision_share: float = 1.0  # of both rates, for the vision model
    shares: dict = None  # how often each kind of question is asked; none: vision only
    questions: int = 6  # about each picture
    all_tiles: float = 0.0  # share of steps that compute the empty tiles too, as the real model does
    pairs: float = 0.0  # share of steps about two pictures
    output_states: float = 0.0  # share of steps with the intermediate states of transformers >= 4.56
    helper: float = 1.0  # weight of the helper losses


SEE = (64, 32, 21, 16)
TALK = (18, 14, 12, 10)
KNOWN = dict(describe=2, count=0.6, shape=1.2, count_colour=1)
STAGES = (
    Stage(1, "see", 1800, (70, 12, 5, 13), SEE, (0.02, 0.009), 2e-3),
    Stage(2, "name", 250, (35, 20, 8, 37), TALK, (0.015, 0.012), 2e-3, 0.4, KNOWN),
    Stage(3, "look up", 300, (35, 20, 8, 37), TALK, (0.015, 0.015), 3e-3, 0.4, KNOWN | dict(colour=4, relation=2.5)),
    Stage(4, "compare", 350, (35, 20, 8, 37), TALK, (0.013, 0.012), 2.5e-3, 0.4,
          KNOWN | dict(colour=1, relation=2, count_shape=2, is_colour=1.2, exists=1.2), all_tiles=0.3),
    Stage(5, "everything", 400, (30, 20, 10, 40), TALK, (0.012, 0.010), 2e-3, 0.4,
          dict(describe=2, count=0.5, shape=0.7, count_colour=0.8, colour=0.8, relation=1.5, count_shape=1.3, is_colour=1, exists=1, is_beside=3),
          all_tiles=0.35, pairs=0.1),
    Stage(6, "look up again", 550, (35, 20, 8, 37), TALK, (0.015, 0.010), 3e-3, 0.4,
          dict(describe=1.5, count=0.3, shape=1.2, count_colour=0.5, colour=5, relation=2.5)),
    Stage(7, "everything again", 550, (30, 20, 10, 40), TALK, (0.011, 0.008), 1.8e-3, 0.4,
          dict(describe=2, count=0.5, shape=0.7, count_colour=1, colour=1, relation=1.5, count_shape=1.5, is_colour=1, exists=1.2, is_beside=2.5),
          all_tiles=0.35, pairs=0.1),
    Stage(8, "look beside", 450, (30, 20, 10, 40), TALK, (0.011, 0.010), 2e-3, 0.4,
          dict(describe=1.5, count=0.3, shape=0.7, count_colour=0.5, colour=2, relation=4, count_shape=2, is_colour=0.5, exists=0.7),
          all_tiles=0.2),
    Stage(9, "both", 200, (25, 18, 12, 45), TALK, (0.009, 0.009), 1.5e-3, 0.4,
          dict(describe=2.5, count=0.4, shape=0.7, count_colour=0.8, colour=1, relation=3, count_shape=2, is_colour=0.7, exists=1, is_beside=2.5),
          all_tiles=0.4, output_states=0.3),
    Stage(10, "both profiles", 1500, (25, 18, 12, 45), TALK, (0.010, 0.0), 1.6e-3, 0.4,
          dict(describe=2.5, count=0.3, shape=0.6, count_colour=0.9, colour=0.8, relation=2.5, count_shape=2.5, is_colour=0.6, exists=1, is_beside=2.5),
          all_tiles=0.35, output_states=0.25),
    Stage(11, "polish", 1200, (25, 18, 12, 45), TALK, (0.008, 0.0), 1.2e-3, 0.4,
          dict(describe=3, count=0.5, shape=0.6, count_colour=1.3, colour=0.5, relation=2, count_shape=4, is_colour=0.6, exists=1, is_beside=2),
          all_tiles=0.4, output_states=0.25),
    Stage(12, "fine polish", 500, (25, 18, 12, 45), TALK, (0.006, 0.0), 0.9e-3, 0.5,
          dict(describe=4, count=0.5, shape=1, count_colour=1.5, colour=0.4, relation=1.5, count_shape=2.5, is_colour=0.4, exists=0.8, is_beside=1.2),
          all_tiles=0.4, output_states=0.25),
    Stage(12, "finish", 650, (25, 18, 14, 43), TALK, (0.0055, 0.0), 0.9e-3, 0.4,
          dict(describe=4, count=0.3, shape=0.5, count_colour=1.5, colour=0.3, relation=1.5, count_shape=4, is_colour=0.4, exists=0.7, is_beside=1.5),
          all_tiles=0.5, output_states=0.2),
)  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- helper losses


class Helpers(nn.Module):
    """Heads that ask the vision model directly what it sees. They teach it shapes long before words could, and are thrown away."""

    SIZES = (len(KINDS) + 1, NONE_COLOUR, 4, 5, *[NONE_KIND + 1] * 4, *[NONE_COLOUR + 1] * 4)
    WEIGHTS = (1.0, 0.5, 0.5, 0.3, *[0.08] * 8)

    def __init__(self):
        super().__init__()
        self.facts = nn.Linear(3 * HIDDEN, sum(self.SIZES) + 3)
        self.coverage = nn.Linear(HIDDEN, 49)

    def forward(self, encoded, batch):
        """Loss and, for the log, how often kind and colour are right on the patches of shapes."""
        states = encoded.states[:, :, 1:]
        on_shape = batch["about"] > 0
        answers = self.facts(states[on_shape]).split([*self.SIZES, 3], dim=-1)
        facts = batch["facts"][on_shape]
        total = sum(w * F.cross_entropy(a, facts[:, i]) for i, (a, w) in enumerate(zip(answers, self.WEIGHTS)))
        total = total + 0.3 * F.smooth_l1_loss(answers[-1], batch["numbers"][on_shape])
        empty = self.facts(states[batch["exists"][:, :, None] & ~on_shape])[:, : self.SIZES[0]]
        total = total + 0.2 * F.cross_entropy(empty, torch.full((len(empty),), NONE_KIND))
        covered = self.coverage(encoded.early[batch["exists"]])
        total = total + 3 * F.binary_cross_entropy_with_logits(covered, batch["coverage"][batch["exists"]])
        right = [(answers[i].argmax(-1) == facts[:, i]).float().mean().item() for i in range(4)]
        return total, dict(zip(("patch kind", "patch colour", "patch rank", "patch number"), right))


def look_loss(looks, batch):
    """Head 0 of the first cross layer shall look at the shape that is asked about, of the second at the one that answers."""
    picture, place, reference, answer = batch["looks"][:, :4].long().T
    importance = batch["looks"][:, 4]
    loss = torch.zeros(())
    if not len(picture):
        return loss
    for weights, wanted in zip(looks, (reference, answer)):
        on_shape = F.pad(batch["about"][picture] == wanted[:, None, None], (1, 0))  # class tokens are no shape
        seen = weights[picture, 0, place] * on_shape.flatten(1)
        exists = on_shape.flatten(1).any(1)
        missed = -(seen.sum(-1) + 1e-4).log() * exists * importance
        loss = loss + missed.sum() / importance.sum() / len(looks)
    return loss


# --------------------------------------------------------------------------------------------------------------- optimiser


class Muon:
    """Momentum whose step is made orthogonal (Jordan et al., 2024), for all matrices of a shape at once."""

    def __init__(self, groups):
        self.stacks = []  # ("vision" or "text", parameters of one shape)
        for part, parameters in groups:
            for shape in sorted({p.shape for p in parameters}):
                self.stacks.append((part, [p for p in parameters if p.shape == shape]))
        self.momenta = [torch.zeros(len(stack), *stack[0].shape) for _, stack in self.stacks]

    @torch.no_grad()
    def step(self, rate, vision_share, momentum=0.95, decay=0.01):
        for (part, stack), running in zip(self.stacks, self.momenta):
            if stack[0].grad is None:  # words have not begun
                continue
            used = rate * (vision_share if part == "vision" else 1)
            gradient = torch.stack([p.grad for p in stack])
            running.lerp_(gradient, 1 - momentum)
            update = orthogonal(gradient.lerp(running, momentum)) * max(1, stack[0].shape[0] / stack[0].shape[1]) ** 0.5
            for parameter, one in zip(stack, update):
                parameter.mul_(1 - used * decay).add_(one, alpha=-used)


def orthogonal(x, steps=5):
    """Newton-Schulz iteration towards the nearest orthogonal matrices."""
    tall = x.shape[1] > x.shape[2]
    x = (x.mT if tall else x) / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


class Optimiser:
    """Muon for linear layers, AdamW for tables, norms and heads. Gates move slowly: none shall saturate or close."""

    def __init__(self, model, helpers):
        muon, adam = {"vision": [], "text": []}, {}
        for name, parameter in model.named_parameters():
            part = "vision" if "vision_model" in name else "text"
            if parameter.dim() == 2 and "embed" not in name and "lm_head" not in name:
                muon[part].append(parameter)
            else:
                slow = 0.1 if "gate" in name else 1.0
                adam.setdefault((part, slow), []).append(parameter)
        self.muon = Muon(muon.items())
        groups = [dict(params=p, part=part, slow=slow) for (part, slow), p in adam.items()]
        groups.append(dict(params=list(helpers.parameters()), part="helpers", slow=1.0))
        self.adam = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)
        self.everything = [p for stack in (muon["vision"], muon["text"], *(g["params"] for g in groups)) for p in stack]

    def step(self, matrix_rate, rate, vision_share):
        nn.utils.clip_grad_norm_(self.everything, 5.0)
        for group in self.adam.param_groups:
            group["lr"] = rate * group["slow"] * (vision_share if group["part"] == "vision" else 1)
        self.adam.step()
        self.muon.step(matrix_rate, vision_share)
        for parameter in self.everything:
            parameter.grad = None

    def state_dict(self):
        return {"momenta": self.muon.momenta, "adam": self.adam.state_dict()}

    def load_state_dict(self, state):
        self.muon.momenta = state["momenta"]
        self.adam.load_state_dict(state["adam"])


# ----------------------------------------------------------------------------------------------------------------- running


def losses(model, helpers, stage, batch):
    """Total loss of a batch, and what to log: name -> (right, asked)."""
    encoded = encode(model, batch["patches"], batch["ratio_ids"], batch["exists"], batch["intermediate"])
    log, loss = {}, 0.0
    if batch["intermediate"] == "input" and stage.helper:  # the heads know one meaning of the intermediate states
        helper_loss, right = helpers(encoded, batch)
        loss = loss + stage.helper * (1.0 if not stage.shares else 0.5) * helper_loss
        log |= {name: (value, 1) for name, value in right.items()}
    if stage.shares:
        hidden, looks = read(model, encoded, batch["exists"], batch["ids"], batch["positions"], batch["mask"], batch["zero_masked_rows"])
        logits = model.lm_head(hidden[batch["target_picture"], batch["target_place"]]).float()
        weight, token, question = batch["target_weight"], batch["target_token"], batch["target_question"]
        text_loss = (F.cross_entropy(logits, token, reduction="none") * weight).sum() / weight.sum()
        loss = loss + 2 * text_loss + 0.5 * stage.helper * look_loss(looks, batch)
        wrong = torch.zeros(len(batch["kinds"])).index_add_(0, question, (logits.argmax(-1) != token).float())
        for index, kind in enumerate(QUESTION_KINDS):
            mine = batch["kinds"] == index
            if mine.any():
                log[kind] = ((wrong[mine] == 0).sum().item(), mine.sum().item())
        log["text loss"] = (text_loss.item(), 1)
    return loss, log


def rates(stage, step):
    """Linear warm-up over 30 steps, then half a cosine from the first rate to the last."""
    first, last = stage.matrix_rate
    along = 0.5 - 0.5 * math.cos(math.pi * step / stage.steps)
    warm = min(1, (step + 1) / 30)
    matrix = (first + (last - first) * along) * warm
    return matrix, stage.rate * matrix / first


def train(out, seed, every=50):
    out.mkdir(parents=True, exist_ok=True)
    model, helpers, words = make_model(seed).train(), Helpers(), Words()
    optimiser = Optimiser(model, helpers)
    number, done, seconds = 1, 0, 0.0
    checkpoint = out / "last.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        helpers.load_state_dict(saved["helpers"])
        optimiser.load_state_dict(saved["optimiser"])
        number, done, seconds = saved["stage"], saved["step"], saved["seconds"]

    def save(name, stage_number, step):
        state = {
            "model": model.state_dict(), "helpers": helpers.state_dict(), "optimiser": optimiser.state_dict(),
            "stage": stage_number, "step": step, "seconds": seconds,
        }  # fmt: skip
        torch.save(state, out / "new.pt")
        (out / "new.pt").rename(out / name)

    for stage in STAGES[number - 1 :]:
        data = Subset(Batches(stage, seed, words), range(done, stage.steps))
        sums, last = {}, time.time()
        for step, batch in enumerate(DataLoader(data, batch_size=None, num_workers=1, prefetch_factor=4), start=done):
            loss, log = losses(model, helpers, stage, batch)
            loss.backward()
            optimiser.step(*rates(stage, step), stage.vision_share)
            seconds, last = seconds + time.time() - last, time.time()
            for name, (right, asked) in log.items():
                before = sums.get(name, (0, 0))
                sums[name] = before[0] + right, before[1] + asked
            if (step + 1) % 50 == 0:
                shown = "  ".join(f"{name} {right / asked:.3f}" for name, (right, asked) in sums.items())
                print(f"{seconds / 60:5.1f} min  {stage.name} {step + 1}/{stage.steps}  {shown}", flush=True)
                sums = {}
            if (step + 1) % every == 0:
                save("last.pt", stage.number, step + 1)
        done = 0
        save(f"stage-{stage.number}.pt", stage.number + 1, 0)
        save("last.pt", stage.number + 1, 0)
    print(f"done after {seconds / 60:.1f} minutes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("pocket-training"))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments.out, arguments.seed)
