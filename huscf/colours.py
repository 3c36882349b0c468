"""The colours of all pictures and pages, on white and on a dark background."""

#: Who holds a block, or sends a message: the same in every picture.
CLIENT, SERVER = "#e8a33d", "#4a6fa5"

#: Okabe and Ito's colours, which people of any colour vision can tell apart.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#555555")

INK, GRID, AXIS, PAPER = "#1d2733", "#e3e6ea", "#9aa3ad", "#ffffff"

#: What each becomes where people have chosen dark pages.
ON_DARK = {
    CLIENT: "#f0b45c",
    SERVER: "#7c9bd0",
    **dict(
        zip(
            SERIES,
            (
                *("#4aa8e0", "#f08a3c", "#2fc79b", "#e39cc3"),
                *("#f5b93a", "#86cdf5", "#b396d6", "#aab2bb"),
            ),
            strict=True,
        )
    ),
    INK: "#e4e9ef",
    GRID: "#2f3b48",
    AXIS: "#66727f",
    PAPER: "#1a222c",
}
