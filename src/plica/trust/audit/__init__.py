"""Every stored answer of a run measured anew, by code of its own: neither the judge, nor a loss, an attack or a solver.

What measures (reference.py, remeasure.py, quantization.py) is written with numpy and torch alone. What it measures must
be read and made by the same code as in the run, which stands in SHARED; a test holds the audit's imports to it.
"""

SHARED = {
    "plica.runs": "reads what the run has stored",
    "plica.models": "loads the models that the run names",
    "plica.core.bounds": "reads where features may move",
    "plica.metrics": "distances that are not l_p norms; reference.py computes the l_p norms itself",
    "plica.perturbations": "T(x, theta) and its distance",
    "plica.trust.probe": "the copy of a model in float64",
    "plica.core.formulations": "reads radii, such as 8/255; imported by plica.runs",
    "plica.core.losses": "names of losses; imported by plica.core.formulations, not called",
    "plica.core.result": "the record of a result; imported by plica.runs, not called",
    "plica.core.status": "the names of reasons; imported by plica.core.result",
    "plica.utils": "messages, files, tables of names",
}  # module or package: what the audit and all that it imports take from it
