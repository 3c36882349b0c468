"""Keys of earlier versions, so that a configuration with one is told the new name."""

import re

METHOD_KEYS = (
    *("generator", "discriminator", "latent_dim", "loss", "generator_lr", "discriminator_lr"),
    *("betas", "mismatched_weight", "mismatched_steps", "weight_std", "ema_decay"),
)

#: What is said of a key that is no longer there.
RENAMED = {f"model.{key}": f"is now model.method.init_args.{key}" for key in METHOD_KEYS} | {
    "model.exchange": "is now model.wire",
    "model.server_normalization": "is no longer there: every client is normalised alone",
}


def explain_renamed(line: str) -> str:
    """Return what became of the key of an earlier version that an error is about, or "".

    Args:
        line: What the parser says of a key that it does not know.
    """
    keys = re.findall(r"(?:Group 'model' does not accept option '|option 'model\.)(\w+)", line)
    if "unrecognized arguments" in line:
        keys += re.findall(r"--model\.(\w+)", line)
    for key in (f"model.{each}" for each in keys):
        if key in RENAMED:
            return f"{key} {RENAMED[key]}"
    return ""
