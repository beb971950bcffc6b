"""One look for all plots: SVG on white, text as text, the same file for the same numbers."""
import sys


def panels(count, width, salt):
    """A figure and its axes, side by side; None where Matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        print("no plots: `pip install -r scripts/requirements-plots.txt` for them", file=sys.stderr)
        return None
    matplotlib.use("svg")
    from matplotlib import pyplot
    pyplot.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": salt,
                            "font.family": "sans-serif", "font.size": 9, "axes.grid": True,
                            "grid.color": "#dddddd", "axes.spines.top": False,
                            "axes.spines.right": False})
    return pyplot.subplots(1, count, figsize=(width, 3.6), layout="constrained")


def save(figure, axis, file):
    """With a legend of the lines of `axis` below."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(file, format="svg", metadata={"Date": None})
