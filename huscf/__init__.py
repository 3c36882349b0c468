"""Split and clustered-federated GAN training across many devices which may not share data.

Source: Tawfilis, Amer, El-Aasser, Elshabrawy, arXiv:2507.12979 (HuSCF-GAN).
"""

__version__ = "0.2.0"
