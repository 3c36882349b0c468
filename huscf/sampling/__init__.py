"""Trained networks without their data: load a checkpoint, draw samples, export a generator."""

from .drawn_traffic import measure_drawing
from .exported_generator import export_generator, merge_cluster, name_files
from .sample_files import write_sample_set
from .sample_set import SampleSet, draw_sample_set
from .saved_gan import SavedGAN, load_gan

__all__ = [
    "SampleSet",
    "SavedGAN",
    "draw_sample_set",
    "export_generator",
    "load_gan",
    "measure_drawing",
    "merge_cluster",
    "name_files",
    "write_sample_set",
]
