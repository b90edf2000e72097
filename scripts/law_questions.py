"""What the index of laws says beside the cards: questions with their laws, a check of each."""

__all__ = ["HEADLINES", "QUESTIONS"]

QUESTIONS: dict[str, tuple[str, str]] = {
    "What loss will a run of a size on so many tokens have?": (
        "laws predict",
        "chinchilla chinchilla-q farseer kaplan",
    ),
    "Which law do my own runs follow?": ("laws fit", "chinchilla chinchilla-q farseer kaplan"),
    "Which size and how many tokens for a budget, also with serving?": (
        "laws allocate",
        "chinchilla chinchilla-q farseer",
    ),
    "How many epochs over limited tokens?": (
        "laws allocate --unique",
        "repeats repeats-tokens effective-data",
    ),
    "Which learning rate and batch?": ("laws hyper", "step-law"),
    "Which pools of ranked data at a budget?": ("laws filter", "repeat-utility effective-data"),
    "Keep the hard or the easy examples?": ("reproduce data-pruning", "data-pruning"),
    "Parallel streams or a larger model?": ("laws streams", "parscale power-streams"),
    "What is a model worth, and how small will its like be next year?": (
        "laws density",
        "density densing-law two-powers",
    ),
    "A larger model, more samples or longer ones at test time?": ("laws testtime", "kinetics"),
    "When do more samples or rounds stop paying?": (
        "laws saturate",
        "ttspm-beta ttspm ttspm-rounds",
    ),
    "A datastore or more parameters?": ("laws datastore", "store-split datastore"),
    "How do forecasters of series grow?": ("laws series", "series"),
}
"""The verb and the laws by question, the first to try first."""

HEADLINES: dict[str, tuple[str, str]] = {
    "step-law": (
        "step-law",
        "tiny models: largest regret in a cell of a law fitted to the other three",
    ),
    "repeats": ("data-filtering", "error at 8 to 16 epochs of a law fitted up to 8"),
    "repeat-utility": (
        "data-filtering",
        "error of losses predicted at 10 and 13.8 epochs, utility law",
    ),
    "effective-data": (
        "data-filtering",
        "the same with samples that fade in place of their utility",
    ),
    "data-pruning": ("data-pruning", "largest distance of theory and trained perceptrons"),
    "density": ("densing-law", "largest error of a known density, both steps fitted"),
    "densing-law": ("densing-law", "doubling time of the records since 2023"),
    "series": (
        "tsfm-scaling",
        "in distribution: 524,288 parameters predicted from the smaller sizes, laws with a floor",
    ),
    "store-split": ("massiveds", "law of the tiny runs: what it misses"),
    "kinetics": ("kinetics", "time at a length held out, larger error of the two models"),
    "ttspm": ("ttspm", "samples: predicted against observed saturation of 12 tiny models"),
    "ttspm-beta": (
        "ttspm",
        "tiny model of sums: pass@32 from 8 samples, p of its own a question, mean of seeds",
    ),
    "ttspm-rounds": (
        "ttspm",
        "simulated rounds with flips: accuracy after 24 from 6, two rates",
    ),
}
"""By law: system and title of the check that the index shows."""
