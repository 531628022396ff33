"""Object removal (DRTune, Wu et al., arXiv 2405.00760, section 4.1): prompts "[concept], and books." and the reward
that takes the books away.

The paper does not publish its concepts. These are ours, embedded, 48 to train on and 48 others to evaluate on: no data
folder is read. Everything else is DRTune's protocol for Stable Diffusion 1.5. There is no sample edition: the detector
behind ``objectness`` was trained on photographs, and the tiny world has no books.
"""

from __future__ import annotations

from pathlib import Path

from bench.core.budget import Budget
from bench.core.errors import UserError
from bench.core.types import Prompt, SamplerSpec, Suite, SuiteSpec
from suites._load import prompt_hash

EVALUATION = {
    "animal": "lion, owl, tortoise, salmon, goat, hummingbird, hedgehog, otter, camel, spaniel, crab, moth",
    "place": "lighthouse, railway platform, greenhouse, harbour, attic, desert road, waterfall, market hall, "
             "ski slope, vineyard, courtyard, tunnel",
    "person": "fisherman, ballet dancer, astronaut, baker, violinist, referee, beekeeper, sailor, welder, mountaineer, "
              "clown, tailor",
    "thing": "teapot, bicycle, grandfather clock, cactus, rowing boat, typewriter, umbrella, chandelier, "
             "birthday cake, telescope, saddle, kite",
}  # fmt: skip
TRAINING = {
    "animal": "tiger, eagle, lizard, trout, sheep, parrot, squirrel, seal, zebra, terrier, lobster, beetle",
    "place": "castle, bus stop, orchard, beach, cellar, forest path, canyon, town square, frozen lake, rice field, "
             "rooftop, bridge",
    "person": "farmer, gymnast, diver, chef, pianist, goalkeeper, gardener, pilot, blacksmith, surfer, juggler, potter",
    "thing": "lantern, tractor, hourglass, bonsai, canoe, gramophone, rocking chair, vase, bowl of fruit, globe, "
             "anchor, balloon",
}  # fmt: skip


def suite(edition: str = "full", *, variant: str = "", data_dir: Path | None = None, limit: int | None = None) -> Suite:
    """Object removal as in DRTune: 48 prompts such as "a lion, and books.", judged by objectness; full only."""
    if edition != "full" or variant:
        raise UserError("books has its own prompts and the full edition only", valid="--edition full",
                        hint="bench run --suite books --edition full --model sd15 --tuner drtune")  # fmt: skip
    if limit is not None and limit < 1:
        raise UserError(f"limit = {limit}", valid="a number of prompts, at least 1", hint="--limit 12")
    everything, train = _prompts("", EVALUATION), _prompts("train-", TRAINING)
    prompts = everything[:limit]
    sampler = SamplerSpec("ddpm", n_steps=50, guidance=7.5)
    spec = SuiteSpec(
        name="books", edition="full", version=1, variant="", title="Object removal: [concept], and books",
        source="form: DRTune (arXiv 2405.00760, section 4.1); the concepts are ours, as the paper's are not published",
        licence="Apache-2.0", n_prompts=len(prompts), n_train_prompts=len(train), prompt_hash=prompt_hash(prompts),
        train_prompt_hash=prompt_hash(train), sampler=sampler, train_sampler=sampler, global_batch=32,
        budget=Budget.from_json({"device_s": 28_800, "primary": "device_s", "hard_wall_s": 172_800}),
        eval_seeds=(0, 1), fractions=(0.0, 0.1, 0.25, 0.5, 1.0), metrics=("clipscore", "rewards"),
        reward="objectness", model="sd15", limit=limit if limit is not None and limit < len(everything) else None,
    )  # fmt: skip
    notes = (
        "the reward asks for no books while the prompt asks for them: CLIP score falls with it by design",
        "training and evaluation concepts are disjoint",
    )
    return Suite(spec, prompts, train, (), notes)


def _prompts(prefix: str, concepts: dict[str, str]) -> tuple[Prompt, ...]:
    return tuple(
        Prompt(f"{prefix}{concept.replace(' ', '-')}", f"{_article(concept)} {concept}, and books.", {"kind": kind})
        for kind, names in concepts.items()
        for concept in names.split(", ")
    )


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"
