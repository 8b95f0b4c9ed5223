"""Checks every stored result of a run again, with none of the code of judge, losses, attacks and solver.

The measurements (reference.py, remeasure.py, quantization.py) use numpy and torch alone. Models, data and distances are
read by the same code as in the run, which SHARED lists; a test checks the audit's imports against it.
"""

SHARED = {
    "plica.runs": "reads what the run has stored",
    "plica.models": "loads the models that the run names",
    "plica.core.model.fitting": "runs models that take batches of one size alone; imported by plica.models",
    "plica.core.model.draws": "the number of draws of a judgement; imported by plica.core.result",
    "plica.core.model.probabilities": "whether outputs are probabilities; imported by plica.core.model.draws",
    "plica.core.model.randomness": "sets random numbers; imported by plica.trust.probe",
    "plica.solver.accelerator": "whether a device is a CPU; imported by plica.core.model.fitting",
    "plica.core.domain.bounds": "where features may move",
    "plica.core.domain.read_bounds": "reads where they may, as plica.runs does",
    "plica.goals": "a user's function; reference.py has the goals of plica.goals again",
    "plica.metrics": "distances that are not l_p norms; reference.py computes the l_p norms itself",
    "plica.perturbations": "T(x, theta) and its distance",
    "plica.trust.probe": "the copy of a model in float64",
    "plica.core.formulations": "reads radii, such as 8/255; imported by plica.runs",
    "plica.core.losses": "names of losses; imported by plica.core.formulations, not called",
    "plica.core.result": "the record of a result; imported by plica.runs, not called",
    "plica.core.status": "the names of reasons; imported by plica.core.result",
    "plica.utils": "messages, files, tables of names",
}  # module or package: what the audit, or a module that it imports, uses it for
