"""Seed known bugs, one at a time, into a copy of the package and see that the tests notice: `make mutants`.

Most are bugs of published code: a detached second derivative, gradients of the mean, KL averaged over classes, a learning rate that
drops once, eps and step swapped, BatchNorm moved by the attack ... A mutant that survives names a missing test. Not part of `make test`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FORMULAS, CONTRACT = "tests/objectives/test_objectives_formulas.py", "tests/objectives/test_objectives_contract.py"
LOSSES, INNER, OPTIM, TRAIN = "tests/test_losses.py", "tests/test_inner.py", "tests/test_optim.py", "tests/test_train.py"
ARD, GUIDED, TEACHER, JACOBIAN = (
    f"tests/objectives/test_{name}_formulas.py" for name in ("ard_family", "guided", "teacher", "kdiga_j")
)
FEED, COUNTING, METHODS = "tests/test_feed.py", "tests/test_counting.py", "tests/test_compare_methods.py"
COST, HEALTH, MEASURE, IBP = (
    "tests/test_cost.py",
    "tests/test_health.py",
    "tests/test_measure.py",
    "tests/objectives/test_ibp_formulas.py",
)
BOUNDS, SMOOTHING, LINEARITY, TRANSFER, CLEVER, ALIGNMENT = (
    f"tests/measures/test_measures_{name}.py" for name in ("bounds", "smoothing", "linearity", "transfer", "clever", "alignment")
)
PAIRS, BENCH = (f"tests/report/test_report_{name}.py" for name in ("pairs", "robustbench"))
BUDGET = "tests/test_cli.py::test_a_budget_chooses_the_images_before_and_keeps_them"
EVALUATE, ATTACKS, STATS, DATA = "tests/test_evaluate.py", "tests/attacks", "tests/test_stats.py", "tests/data"
AUTO, SQUARE = "tests/attacks/test_attacks_autoattack.py", "tests/attacks/test_attacks_square.py"


@dataclass(frozen=True)
class Mutant:
    """In `file`, `old` (which must occur) becomes `new`; `tests` should fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = [
    Mutant("the alignment is detached: it teaches nothing (first commit of the authors' code)", "objectives/kdiga.py",
           "g_student = input_gradient(own, u, create_graph=True)", "g_student = input_gradient(own, u, create_graph=False)", CONTRACT),
    Mutant("gradients of the batch mean, 1/B", "losses.py", "loss.sum(), x", "loss.mean(), x", LOSSES),
    Mutant("one norm over the batch", "objectives/kdiga.py", "norm(g_student - g_teacher, 2.0)",
           "(g_student - g_teacher).norm().expand(len(u))", CONTRACT),
    Mutant("squared norm", "objectives/kdiga.py", "norm(g_student - g_teacher, 2.0)", "norm(g_student - g_teacher, 2.0) ** 2", FORMULAS),
    Mutant("l1 norm", "objectives/kdiga.py", "norm(g_student - g_teacher, 2.0)", "norm(g_student - g_teacher, 1.0)", FORMULAS),
    Mutant("norm with a NaN gradient at zero", "losses.py", "torch.linalg.vector_norm(v.flatten(1), ord=p, dim=1)",
           "v.flatten(1).abs().pow(p).sum(1).pow(1 / p)", LOSSES),
    Mutant("KL averaged over classes (PyTorch's default)", "losses.py", "log_target=True).sum(1)", "log_target=True).mean(1)", LOSSES),
    Mutant("no T^2", "losses.py", "return temperature**2 * F.kl_div", "return F.kl_div", LOSSES),
    Mutant("KL the other way round", "losses.py", "F.kl_div(log_q, log_p", "F.kl_div(log_p, log_q", LOSSES),
    Mutant("double softmax", "losses.py", "F.cross_entropy(_wide(z), y", "F.cross_entropy(_wide(z).softmax(1), y", LOSSES),
    Mutant("eps and step may be swapped", "inner.py", "if step_size > 2 * threat.eps:", "if False:", INNER),
    Mutant("step 2/225", "inner.py", "min(2.5 / steps, 1.0)", "min(2.5 / steps * 255 / 225, 1.0)", INNER),
    Mutant("steps that cannot cross the ball", "inner.py", "min(2.5 / steps, 1.0)", "min(1.3 / steps, 1.0)", INNER),
    Mutant("descent", "inner.py", "u.detach() + step_size * direction", "u.detach() - step_size * direction", INNER),
    Mutant("no clamp to [0, 1]", "inner.py", "x + threat.eps).clamp(0, 1)", "x + threat.eps)", INNER),
    Mutant("no l2 projection", "inner.py", "scale = (threat.eps / norm(d, 2.0).clamp_min(1e-12)).clamp_max(1)", "scale = norm(d, 2.0) * 0 + 1", INNER),
    Mutant("l2 points not uniform", "inner.py", "** (1 / x[0].numel())", "", INNER),
    Mutant("evaluation mode is not undone", "inner.py", "m.training = mode", "pass", INNER),
    Mutant("the attack runs in training mode", "inner.py", "    model.eval()\n    try:", "    try:", CONTRACT),
    Mutant("adversarial training on clean images", "objectives/pgd_at.py", "cross_entropy(student(x), batch.y)}",
           "cross_entropy(student(batch.x), batch.y)}", FORMULAS),
    Mutant("TRADES detaches the clean branch", "objectives/trades.py", "kl(student(attacked), z)", "kl(student(attacked), z.detach())", FORMULAS),
    Mutant("TRADES without beta", "objectives/trades.py", "beta * kl(", "kl(", FORMULAS),
    Mutant("the clean point where a random one was asked for", "objectives/kdiga.py", 'if point == "random":', "if False:", CONTRACT),
    Mutant("the author's norm without 1/B", "objectives/kdiga_author.py", "gamma / size * torch", "gamma * torch", FORMULAS),
    Mutant("the author's KL summed over classes", "objectives/kdiga_author.py", "alpha / classes * kl", "alpha * kl", FORMULAS),
    Mutant("KD ignores its teacher", "objectives/kd.py", "kl(z, target, temperature)", "kl(z, z.detach(), temperature)", CONTRACT),
    Mutant("the second milestone does not count", "optim.py", "sum(progress >= m for m in milestones)",
           "min(1, sum(progress >= m for m in milestones))", OPTIM),
    Mutant("weight decay on norms", "optim.py", '"params": free, "weight_decay": 0.0', '"params": free, "weight_decay": weight_decay', OPTIM),
    Mutant("resume forgets the random state", "checkpoint.py", 'torch.set_rng_state(tensors["random/cpu"])', "pass", TRAIN),
    Mutant("resume forgets the momentum", "checkpoint.py", "optimizer.load_state_dict(state)", "pass", TRAIN),
    Mutant("resume repeats log lines", "train.py", "lines[: state.log_lines]", "lines", TRAIN),
    Mutant("every epoch in the same order", "feed.py", "_generator(self.seed, epoch)", "_generator(self.seed, 0)", FEED),
    Mutant("NaN is not noticed", "train.py", 'if not abs(loss) < float("inf"):', "if False:", TRAIN),
    Mutant("a collapsed student overwrites the checkpoint", "train.py", "if state.at_chance == 0 or not saved.exists():", "if True:", TRAIN),
    Mutant("logged terms do not add up", "train.py", "loss = sum(means.values())", "loss = max(means.values())", TRAIN),
    Mutant("a sample that is wrong on clean input counts", "evaluate/__init__.py", "rows = (left if name in AUTOATTACK else clean).nonzero()[:, 0]",
           "rows = (clean | True).nonzero()[:, 0]", EVALUATE),
    Mutant("robust under any attack instead of all", "evaluate/__init__.py", "left = left & columns[name]", "left = left | columns[name]", EVALUATE),
    Mutant("the attack is believed: no projection", "evaluate/stage.py", "model(project(torch.where(usable, found, x).to(x), x, threat))",
           "model(torch.where(usable, found, x).to(x))", EVALUATE),
    Mutant("NaN logits count as right", "attacks/packing.py", "(z.argmax(1) == y) & ~z.isnan().any(1)", "(z.argmax(1) == y) | z.isnan().any(1)", EVALUATE),
    Mutant("attack seeds depend on the process", "evaluate/stage.py", 'int.from_bytes(sha256(f"{seed}/{name}/{row}".encode()).digest()[:7])',
           'int.from_bytes(sha256(f"{seed}/{row}".encode()).digest()[:7])', EVALUATE),
    Mutant("eight targets", "attacks/packing.py", "TARGETS = 9", "TARGETS = 8", AUTO),
    Mutant("the label is a target", "attacks/packing.py", "[:, 1 : TARGETS + 1]", "[:, :TARGETS]", AUTO),
    Mutant("Auto-PGD: the step is halved later", "attacks/apgd.py", "s.rises <= 0.75 * since", "s.rises <= 0.5 * since", AUTO),
    Mutant("Auto-PGD: a loss that stands still is no reason to halve", "attacks/apgd.py", " | (~s.halved & (s.checked >= s.best))", "", AUTO),
    Mutant("Auto-PGD: no momentum", "attacks/apgd.py", "0.75 if i else 1.0", "1.0", AUTO),
    Mutant("Auto-PGD: a halved run does not go back", "attacks/apgd.py", "torch.where(_wide(halve), s.best_u, s.u)", "s.u", AUTO),
    Mutant("DLR with the third logit alone", "attacks/apgd.py", "(top[:, 2] + top[:, 3]) / 2", "top[:, 2]", AUTO),
    Mutant("FAB does not overshoot", "attacks/fab.py", "ETA, ALPHA, BETA = 1.05", "ETA, ALPHA, BETA = 1.0", AUTO),
    Mutant("FAB is not drawn back to the image", "attacks/fab.py", "s.x + BETA * (u - s.x)", "u", AUTO),
    Mutant("FAB takes a point outside the ball for a success", "attacks/fab.py", "<= threat.eps", "<= 9", AUTO),
    Mutant("FAB's plane without the box", "attacks/fab.py", "torch.where(way > 0, 1 - u, u)", "torch.ones_like(u)", AUTO),
    Mutant("Square's windows do not shrink", "attacks/square.py", "2 ** bisect_left(HALVED_AFTER, query)", "1", SQUARE),
    Mutant("Square keeps a query that another one made void", "attacks/square.py", "kept &= turn == first[of]", "pass", SQUARE),
    Mutant("Square counts queries that are void", "attacks/square.py", "s.spent + first + 1", "s.spent + ahead", SQUARE),
    Mutant("Square asks what changes nothing", "attacks/square.py", "(u != s.best[of]).flatten(1).any(1) & ", "", SQUARE),
    Mutant("what only the folded copy gets wrong counts as withstood", "attacks/autoattack.py", "for searched in (fast, model):",
           "for searched in (fast,):", AUTO),
    Mutant("a copy with other logits is attacked", "attacks/folding.py", "fast if _same(fast(x), z) else model", "fast", ATTACKS),
    Mutant("FGSM takes half a step", "attacks/pgd.py", "steps=1, step_size=threat.eps, start=x", "steps=1, step_size=threat.eps / 2, start=x", ATTACKS),
    Mutant("a normal interval instead of Wilson's", "stats.py", 'method="wilson"', 'method="exact"', STATS),
    Mutant("a validation set that is also trained on", "data/splits.py", "(~chosen, chosen)", "(chosen | True, chosen)", DATA),
    Mutant("ARD shows its teacher the attacked image", "objectives/ard.py", "target = teacher(batch.x)", "target = teacher(attacked)", ARD),
    Mutant("the label attack runs in training mode", "objectives/ard.py", "    with eval_mode(student):\n        return", "    if True:\n        return", ARD),
    Mutant("AKD shows its teacher the clean image", "objectives/akd.py", "target = teacher(attacked)", "target = teacher(batch.x)", ARD),
    Mutant("IAD shows its teacher the attacked image", "objectives/iad.py", "target = teacher(batch.x)", "target = teacher(attacked)", ARD),
    Mutant("IAD detaches the student's clean prediction", "objectives/iad.py", "kl(attacked, clean)", "kl(attacked, clean.detach())", ARD),
    Mutant("IAD trusts the teacher at the clean image", "objectives/iad.py", "guide = teacher(attacked)", "guide = teacher(batch.x)", ARD),
    Mutant("IAD introspects from the first step", "objectives/iad.py", "if progress >= begin:", "if True:", ARD),
    Mutant("AdaIAD without the ramp", "objectives/adaiad.py", "if progress >= begin:", "if True:", ARD),
    Mutant("AdaIAD attacks a fixed target", "objectives/adaiad.py", "most_divergent(student, teacher, batch.x", "most_divergent(student, teacher(batch.x), batch.x", ARD),
    Mutant("RSLAD's teacher sees the attacked image", "objectives/rslad.py", "adv_weight * kl(student(attacked), target)", "adv_weight * kl(student(attacked), teacher(attacked))", ARD),
    Mutant("RSLAD with its weights swapped", "objectives/rslad.py", "adv_weight: Weight = 5 / 6", "adv_weight: Weight = 1 / 6", ARD),
    Mutant("AdaAD's attack without the teacher's gradient", "objectives/rslad.py", "target(u) if isinstance", "target(u).detach() if isinstance", ARD),
    Mutant("AdaAD's teacher stays at the clean image", "objectives/adaad.py", "towards = teacher if teacher_in_attack else teacher(batch.x)", "towards = teacher(batch.x)", ARD),
    Mutant("AdaAD's clean term with the attacked target", "objectives/adaad.py", "        with torch.no_grad():\n            target = teacher(batch.x)\n", "", ARD),
    Mutant("AdvFunMatch without mixing", "objectives/advfunmatch.py", "x=ratio * batch.x + (1 - ratio) * batch.x[partner]", "x=batch.x", ARD),
    Mutant("AdvFunMatch mixes with one ratio for the batch", "objectives/advfunmatch.py", "batch.x[:, :1, :1, :1]", "batch.x[:1, :1, :1, :1]", ARD),
    Mutant("KDIGA-ARD's alignment teaches nothing", "objectives/kdiga_ard.py", "create_graph=True", "create_graph=False", ARD),
    Mutant("KDIGA-ARD_C aligned at the attacked image", "objectives/kdiga_ard.py", '_aligned("clean", ', '_aligned("attacked", ', ARD),
    Mutant("KDIGA-ARD's target is always attacked", "objectives/kdiga_ard.py", "z_teacher[target].detach()", 'teacher(attacked).detach()', ARD),
    Mutant("KDIGA-ARD's cross-entropy at the attacked image", "objectives/kdiga_ard.py", 'cross_entropy(z["clean"], batch.y)', 'cross_entropy(z["attacked"], batch.y)', ARD),
    Mutant("IGDM without the ramp", "objectives/igdm.py", "progress * igdm_weight * gap(", "igdm_weight * gap(", GUIDED),
    Mutant("IGDM's mirror image leaves the image range", "objectives/igdm.py", "(2 * x - attacked).clamp(0, 1)", "2 * x - attacked", GUIDED),
    Mutant("IGDM compares x' with x instead of its mirror image", "objectives/igdm.py", "mirrored = (2 * x - attacked).clamp(0, 1)", "mirrored = x", GUIDED),
    Mutant("SAAD's mirrored term without the entropy weight", "objectives/saad.py", "igdm_weight * w * gap(", "igdm_weight * gap(", GUIDED),
    Mutant("SAAD attacks the teacher's clean prediction, not the linearised one", "objectives/saad.py", "kl(student(u), linearised(u))", "kl(student(u), clean)", GUIDED),
    Mutant("SAAD weighs by the entropy at the clean image", "objectives/saad.py", "log_p = target.log_softmax(", "log_p = clean.log_softmax(", GUIDED),
    Mutant("MTARD's weight moves to the branch that has learnt more", "objectives/mtard.py", "(n / (a + n)", "(a / (a + n)", GUIDED),
    Mutant("MTARD's balance is not relative to the first step", "objectives/mtard.py",
           'memory.setdefault("first_adv", a)', "torch.ones_like(a)", GUIDED),
    Mutant("DGAD takes the clean image of the wrong samples", "objectives/dgad.py", "argmax(1) != batch.y", "argmax(1) == batch.y", GUIDED),
    Mutant("DGAD without the swap at the attacked image", "objectives/dgad.py", "kl(z, _corrected(target, batch.y))", "kl(z, target)", GUIDED),
    Mutant("IGD takes its gradient in evaluation mode", "objectives/igd.py", "    g_student = input_gradient(",
           "    student.eval()\n    g_student = input_gradient(", GUIDED),
    Mutant("IGD's gradient is detached", "objectives/igd.py", "create_graph=True)", "create_graph=False)", GUIDED),
    Mutant("IGAM matches gradients of the loss, not of the probability", "objectives/igam.py",
           "return torch.exp(-cross_entropy(z, y))", "return cross_entropy(z, y)", GUIDED),
    Mutant("PAG draws the same classes for every image", "objectives/pag.py", ".argsort(1)[:, :classes]", ".argsort(1)[:1, :classes].expand(len(z), -1)", GUIDED),
    Mutant("the l2 norm for an l-inf threat", "objectives/gradnorm.py", "dual_norm(g, threat)", "g.flatten(1).norm(dim=1)", GUIDED),
    Mutant("MART without the weight of misclassified samples", "objectives/mart.py", "kl(z, clean) * unsure", "kl(z, clean)", TEACHER),
    Mutant("MART detaches the weight 1 - p_y", "objectives/mart.py", "kl(z, clean) * unsure", "kl(z, clean) * unsure.detach()", TEACHER),
    Mutant("MART's margin against the label itself", "objectives/mart.py", "z.scatter(1, batch.y[:, None], -torch.inf).argmax", "z.argmax", TEACHER),
    Mutant("MART without its margin", "objectives/mart.py", '"bce": ce + margin', '"bce": ce', TEACHER),
    Mutant("MART weighs by the attacked image's p_y", "objectives/mart.py", "-torch.expm1(-cross_entropy(clean, batch.y))", "-torch.expm1(-ce)", TEACHER),
    Mutant("FGSM-RS attacks in training mode", "objectives/fgsm_rs.py", "with eval_mode(student):", "if True:", TEACHER),
    Mutant("FGSM-RS steps by eps", "objectives/fgsm_rs.py", "1.25 * threat.eps", "threat.eps", TEACHER),
    Mutant("N-FGSM is projected back into the threat's ball", "objectives/n_fgsm.py", "batch.y), noisy, threat,", "batch.y), batch.x, threat,", TEACHER),
    Mutant("N-FGSM's noise is the threat's", "objectives/n_fgsm.py", "noise * threat.eps", "threat.eps", TEACHER),
    Mutant("free training forgets delta", "objectives/free.py", 'memory.get("delta")', "None", TEACHER),
    Mutant("free training steps from x, not from x + delta", "objectives/free.py", "project(point + threat.eps", "project(batch.x + threat.eps", TEACHER),
    Mutant("free training descends", "objectives/free.py", "point + threat.eps * direction", "point - threat.eps * direction", TEACHER),
    Mutant("free training steps by the gradient's length", "objectives/free.py", "threat.eps * direction(gradient, threat)", "threat.eps * gradient", TEACHER),
    Mutant("GradAlign's term teaches nothing", "objectives/gradalign.py", "u, create_graph=True)", "u)", CONTRACT),
    Mutant("GradAlign differentiates the gradient at x too", "objectives/gradalign.py", "batch.y), x)", "batch.y), x, create_graph=True)", TEACHER),
    Mutant("LLR searches the loss, not its departure from linear", "objectives/llr.py", "loss(u) - here - _dot(u - batch.x, g)", "loss(u)", TEACHER),
    Mutant("LLR detaches the slope", "objectives/llr.py", "slope_weight * slope.abs()", "slope_weight * slope.detach().abs()", CONTRACT),
    Mutant("LLR takes the departure with its sign", "objectives/llr.py", "(loss(far) - clean - slope).abs()", "(loss(far) - clean - slope)", TEACHER),
    Mutant("LLR leaves the slope out of the departure", "objectives/llr.py", "(loss(far) - clean - slope).abs()", "(loss(far) - clean).abs()", TEACHER),
    Mutant("LLR's gradient at x is detached in the outer loss", "objectives/llr.py", "input_gradient(clean, x, create_graph=True)", "input_gradient(clean, x, create_graph=True).detach()", TEACHER),
    Mutant("CURE squares its norm", "objectives/cure.py", "norm(g_far - g, 2.0)", "norm(g_far - g, 2.0) ** 2", TEACHER),
    Mutant("CURE detaches the gradient at x", "objectives/cure.py", "norm(g_far - g, 2.0)", "norm(g_far - uphill, 2.0)", TEACHER),
    Mutant("CURE ignores h", "objectives/cure.py", "step_size=h * threat.eps, start=batch.x", "step_size=threat.eps, start=batch.x", TEACHER),
    Mutant("CURE in evaluation mode", "objectives/cure.py", "g_far = input_gradient(", "student.eval()\n    g_far = input_gradient(", TEACHER),
    Mutant("shared papers are cited twice", "cite.py", "keys = dict.fromkeys(", "keys = list(", "tests/test_cite.py"),
    Mutant("a wrong digit in an arXiv id", "references.bib", "eprint = {1901.08573}", "eprint = {1901.08575}", "tests/test_cite.py"),
    Mutant("objectives with a teacher listed as without", "contents.py", "distils(name) is needs", "distils(name) is not needs", "tests/test_contents.py"),
    Mutant("what the loop fills in is shown as an option", "contents.py", "accepted(function, hidden=hidden).values()", "accepted(function).values()", "tests/test_contents.py"),
    Mutant("lines are not wrapped", "contents.py", "width or 10**6", "10**6", "tests/test_contents.py"),
    Mutant("cosines divide by a vanishing gradient", "losses.py", "torch.where(short, 1.0, lengths[0] * lengths[1])", "lengths[0] * lengths[1]", GUIDED),
    Mutant("kdiga_j detaches the student's Jacobian", "objectives/kdiga_j.py", "(v * z).sum(1), u, create_graph=True)", "(v * z).sum(1), u)", JACOBIAN),
    Mutant("kdiga_j in the primal norm", "objectives/kdiga_j.py", "dual_norm(g_student - g_teacher, threat)", "(g_student - g_teacher).flatten(1).norm(p=threat.norm, dim=1)", JACOBIAN),
    Mutant("kdiga_j projects on a common shift of the logits", "objectives/kdiga_j.py", "    v = v - v.mean(1, keepdim=True)\n", "", JACOBIAN),
    Mutant("kdiga_j without eps", "objectives/kdiga_j.py", "error = threat.eps * dual_norm", "error = dual_norm", JACOBIAN),
    Mutant("kdiga_j always at the clean image", "objectives/kdiga_j.py", "    if point == \"clean\":", "    if True:", JACOBIAN),
    Mutant("weights stay perturbed", "optim.py", "                w.copy_(old)", "                pass", TRAIN),
    Mutant("weight perturbation without the weights' norm", "optim.py", "gamma * w.norm() / g.norm()", "gamma / g.norm()", TRAIN),
    Mutant("weight perturbation attacks twice", "train.py", "inner.repeating(points):", "inner.remembering():", TRAIN),
    Mutant("weight perturbation moves BatchNorm twice", "train.py", "            v.copy_(buffers[k])", "            pass", TRAIN),
    Mutant("early stopping keeps the last epoch", "train.py", 'modules.get("best", kept)', "kept", TRAIN),
    Mutant("memory is not saved", "train.py", '{f"memory/{k}": v for k, v in memory.items()}', "{}", TRAIN),
    Mutant("catastrophic overfitting is not noticed", "train.py", "pgd <= state.best_watched - FALL", "False", TRAIN),
    Mutant("extra images without their share", "feed.py", "round(extra_fraction * self.size)", "round(0.5 * self.size)", FEED),
    Mutant("a replayed batch is augmented anew", "feed.py", "_generator(self.seed + 1, shown)", "_generator(self.seed + 1, step)", FEED),
    Mutant("rows of extra images are those of others", "feed.py", "len(self.data) + more", "more", FEED),
    Mutant("numbers outside an option's domain pass", "options.py", "if number not in domain:", "if False:", "tests/test_options_and_recipe.py"),
    Mutant("calls are counted, not images", "counting.py", "+= len(gradient)", "+= 2", COUNTING),
    Mutant("weight perturbation is not counted: the objective alone is", "counting.py",
           "update(student, teacher, objective, batch, share, optimizer, 0.0, recipe.train, State(), memory)",
           "torch.stack([t.mean() for t in objective(student, teacher, batch, share).values()]).sum().backward()", COUNTING),
    Mutant("the permutation test leaves out what is as extreme as the data", "stats.py", "chance[distance >= abs", "chance[distance > abs", STATS),
    Mutant("seeds as if they were more images", "stats.py", "a.sum(0) * len(b) - b.sum(0) * len(a)", "a[0].long() - b[0].long()", STATS),
    Mutant("ratio of PGD-20 accuracies", "ranking.py", "teacher.row.autoattack if", "teacher.row.clean if", METHODS),
    Mutant("a zero gradient counts as orthogonal", "ranking.py", "aligned = aligned[~aligned.isnan()]", "aligned = aligned.nan_to_num()", METHODS),
    Mutant("the worst method first", "ranking.py", "reverse=True)", "reverse=False)", METHODS),
    Mutant("a resumed comparison trains anew what it had begun", "compare_methods.py",
           'begun = (own / "checkpoint" / "last.safetensors").exists()', "begun = False", METHODS),
    Mutant("what has stopped is trained again", "compare_methods.py", " or (own / ranking.STOPPED).exists()", "", METHODS),
    Mutant("Ctrl-C is told to a process twice: nothing is saved", "pool.py", "os.setpgrp()", "pass", METHODS),
    Mutant("a failed run ends the comparison", "pool.py", "failed[name] = error", "raise", METHODS),
    Mutant("methods are tested on other images", "methods.py", '"threat", "evaluate")', '"threat")', METHODS),
    Mutant("a linear axis", "report/charts.py", "at=(to_x(log(seconds))", "at=(to_x(seconds)", METHODS),
    Mutant("a one-sided sample size", "stats.py", "normal.inv_cdf(1 - alpha / 2)", "normal.inv_cdf(1 - alpha)", STATS),
    Mutant("a sample size without continuity correction", "stats.py", "(root + sqrt(root**2 + 4 * d)) / (2 * d)", "root / d", STATS),
    Mutant("discordant images in one direction only", "stats.py", "p_a * (1 - p_b) + p_b * (1 - p_a)", "p_a * (1 - p_b)", STATS),
    Mutant("ranks without ties", "stats.py", "x, y = (rankdata(v) - (n + 1) / 2", "x, y = (rankdata(v, 'ordinal') - (n + 1) / 2", STATS),
    Mutant("a perfect order is certain", "stats.py", "most = 1 - 6 / (n * (n**2 - 1))", "most = 1 - 1e-12", STATS),
    Mutant("AUC the other way round", "stats.py", "rankdata(score.detach().cpu().numpy())", "rankdata(-score.detach().cpu().numpy())", STATS),
    Mutant("FAB's second pass is not counted", "evaluate/cost.py", '"fab-t": (targets * STEPS, targets * STEPS)',
           '"fab-t": (0, targets * STEPS)', COST),
    Mutant("a budget is spent on what breaks at once", "evaluate/cost.py", "n = int(seconds / each.high)", "n = int(seconds / each.low)", COST),
    Mutant("the cost of the first model only", "compare.py", "Cost(sum(c.low for c in each), sum(c.high for c in each))", "each[0]", BUDGET),
    Mutant("resume chooses the images anew", "cli.py", 'json.dumps(asked | {"images": n})', "json.dumps(asked)", BUDGET),
    Mutant("pairs as if the models were independent", "report/pairs.py", ", discordant=(only_a + only_b) / n)", ")", PAIRS),
    Mutant("not told apart where p is small", "report/pairs.py", "if p >= LEVEL and", "if p < LEVEL and", PAIRS),
    Mutant("an entry from a part of the test set", "report/robustbench.py", "if found.n < IMAGES:", "if False:", BENCH),
    Mutant("an entry in fractions", "report/robustbench.py", "{100 * found.accuracy('autoattack'):.2f}", "{found.accuracy('autoattack'):.2f}", BENCH),
    Mutant("an entry at another eps", "report/robustbench.py", "if threat.eps != Threat", "if False and threat.eps != Threat", BENCH),
    Mutant("smoothing: a two-sided bound", "measures/smoothing.py", "beta.ppf(alpha, ", "beta.ppf(alpha / 2, ", SMOOTHING),
    Mutant("smoothing: noise is clipped", "measures/smoothing.py", "z = model(x[row] + sigma * torch.randn_like(x[row]))",
           "z = model((x[row] + sigma * torch.randn_like(x[row])).clamp(0, 1))", SMOOTHING),
    Mutant("smoothing: a wrong prediction keeps its radius", "measures/smoothing.py", "found.prediction == y,", "found.prediction >= 0,", SMOOTHING),
    Mutant("bounds: a radius spread by signed weights", "bounds/steps.py", "F.conv2d(r, weight.abs(), None", "F.conv2d(r, weight, None", BOUNDS),
    Mutant("bounds: the upper end of a falling activation", "bounds/propagate.py", "least, torch.maximum(*ends)", "least, ends[1]", BOUNDS),
    Mutant("bounds: upper and lower line swapped", "bounds/propagate.py", "up * below + down * slope", "up * slope + down * below", BOUNDS),
    Mutant("bounds: the upper line without its intercept", "bounds/propagate.py", "_dot(down, -slope * low)", "0 * _dot(down, -slope * low)", BOUNDS),
    Mutant("bounds: a branch overwrites the other", "bounds/propagate.py", "pending[read] + a if read in pending else a", "a", BOUNDS),
    Mutant("bounds: the box is not cut to [0, 1]", "bounds/propagate.py", "(x - threat.eps).clamp(0, 1), (x + threat.eps).clamp(0, 1)",
           "x - threat.eps, x + threat.eps", BOUNDS),
    Mutant("ibp: eps is not ramped", "objectives/ibp.py", "eps=share * threat.eps", "eps=threat.eps", IBP),
    Mutant("training noise from a generator of its own", "train.py", "settings.noise_sd * torch.randn_like(batch.x)",
           "settings.noise_sd * torch.randn(batch.x.shape, generator=torch.Generator().manual_seed(0))", TRAIN),
    Mutant("the dual norm of l-inf is taken for l2", "inner.py", "1.0 if threat.norm == inf else 2.0", "2.0", LINEARITY),
    Mutant("the residual without its linear part", "measures/tangent.py", " - ((u - self.x) * self.gradient).flatten(1).sum(1)", "", LINEARITY),
    Mutant("the last iterate counts, not the best", "measures/tangent.py", "best = torch.maximum(best, value.detach())", "best = value.detach()", LINEARITY),
    Mutant("only residuals above the tangent", "measures/linearity.py", "above if signed else above.maximum(search.departure(t, -1))", "above", LINEARITY),
    Mutant("the excess with the wrong sign of the teacher's gamma", "measures/transfer.py",
           "above, below = search.departure(s, 1), search.departure(t, -1)", "above, below = search.departure(s, 1), search.departure(t, 1)", TRANSFER),
    Mutant("inheriting from a teacher that fails", "measures/transfer.py", "excess.clamp_min(0)", "excess", TRANSFER),
    Mutant("the slack of the student", "measures/transfer.py", "search.highest(t.loss)", "search.highest(s.loss)", TRANSFER),
    Mutant("CLEVER: an end at infinity", "measures/clever.py", "if shape > SHAPE", "if False", CLEVER),
    Mutant("CLEVER: the maximum in place of the fitted end", "measures/clever.py", "return top + max(float(end), 0.0) * spread", "return top", CLEVER),
    Mutant("a margin that counts the label", "losses.py", "_wide(z).scatter(1, y[:, None], -torch.inf).amax(1)", "_wide(z).amax(1)", TRANSFER),
    Mutant("a measure of something else is kept", "measured.py", 'if known.get(name, ("", None))[0] != digest:', "if name not in known:", MEASURE),
    Mutant("the teacher is compared with itself", "measured.py", "if not (compares(name) and own == other)", "if True", MEASURE),
    Mutant("resuming drops the measures that were not asked for", "measured.py", "    known = _known(own)\n    for", "    known = dict[str, tuple[str, PerSample]]()\n    for", MEASURE),
    Mutant("contradictions are not counted", "report/measures.py", "int((says & ~one.robust).sum())", "int((says & one.robust).sum())", MEASURE),
    Mutant("health: weak and strong swapped", "health/flag.py", "more = int(weak.sum()) - int(strong.sum())", "more = int(strong.sum()) - int(weak.sum())", HEALTH),
    Mutant("health: a margin that counts the label", "losses.py", "z.scatter(1, y[:, None], -torch.inf).logsumexp", "z.logsumexp", HEALTH),
    Mutant("health: a saturated loss passes", "health/behaviour.py", "_cosine(g, h) < ALIGNED", "_cosine(g, h) < -1", HEALTH),
    Mutant("health: the slope in the norm of the ball", "health/behaviour.py", "slope = dual_norm(h, threat)", "slope = h.flatten(1).abs().amax(1)", HEALTH),
    Mutant("health: transfer from the model itself", "health/attacked.py", "pgd20(source, x, y, threat)", "pgd20(model, x, y, threat)", HEALTH),
    Mutant("health: corners inside the ball", "health/attacked.py", "x + threat.eps * d, x, threat", "x + 0.5 * threat.eps * d, x, threat", HEALTH),
    Mutant("health: what FAB did after Square counts as white-box", "health/__init__.py", 'takewhile(lambda name: name != "square", found.cascade)',
           '(n for n in found.cascade if n != "square")', HEALTH),
    Mutant("health: APGD-T is not asked", "health/attacked.py", "return len(broken), len(left)", "return len(broken), len(broken)", HEALTH),
    Mutant("bounds: an activation writes into out", "bounds/activations.py", ' or "out" in more', "", BOUNDS),
    Mutant("bounds: a mean over () is one over the image", "bounds/steps.py", " or [0])]", ")]", BOUNDS),
    Mutant("bounds: a pooling divisor below 0", "bounds/steps.py", "divisor_override < 0:", "False:", BOUNDS),
    Mutant("bounds: the batch taken for channels", "bounds/record.py", "mixed = len(out) != len(read) or (", "mixed = (", BOUNDS),
    Mutant("smoothing: NaN is an answer", "measures/smoothing.py", "(~z.isnan().any(1)).long()", "torch.ones_like(row)", SMOOTHING),
    Mutant("CLEVER: a slope that is not finite is flat", "measures/clever.py", "np.isfinite(m).all() else inf for", "np.isfinite(m).all() else 0.0 for", CLEVER),
    Mutant("cosine: of the saturated cross-entropy", "measures/alignment.py", 'log_odds if loss == "ce" else LOSSES[loss]', "LOSSES[loss]", ALIGNMENT),
    Mutant("spearman: ranks of NaN", "stats.py", "if not np.isfinite([*a, *b]).all():", "if False:", STATS),
    Mutant("folding: a masked class hides every difference", "attacks/folding.py", "1e-3 * scale + 1e-5 * apart", "1e-3 * apart.max()", ATTACKS),
    Mutant("folding: a BatchNorm after another step", "attacks/folding.py", " and seen[2] == inputs[0]._version", "", ATTACKS),
    Mutant("folding: a BatchNorm used twice", "attacks/folding.py", "if calls[bn] == calls[conv] == 1", "", ATTACKS),
    Mutant("a NaN iterate counts as broken", "attacks/apgd.py", " & s.u.isfinite().flatten(1).all(1)", "", ATTACKS),
    Mutant("numbers that no weight shows are another model's", "evaluate/records.py", 'yield f"{name}={value!r}".encode()', "pass", EVALUATE),
    Mutant("health: a masked class is the scale", "health/behaviour.py", "apart.where(apart <= 1000 * usual, 0).amax(1)", "apart.amax(1)", HEALTH),
]  # fmt: skip


def killed(mutant: Mutant) -> bool:
    """Whether the mutant's tests fail on a copy of the repository that has the bug."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch)
        for name in ("src", "tests", "recipes", "docs", "benchmarks", "pyproject.toml", "README.md", "CITATION.cff", "Makefile"):
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, copy / name)
        file = copy / "src" / "kdiga" / mutant.file
        text = file.read_text()
        if mutant.old not in text:
            raise SystemExit(f"mutant '{mutant.name}': {mutant.file} no longer has the line that it changes")
        file.write_text(text.replace(mutant.old, mutant.new, 1))
        command = [sys.executable, "-m", "pytest", "-x", "--no-header", "--tb=no", mutant.tests]
        environment = os.environ | {"PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=copy, env=environment, capture_output=True, check=False).returncode == 1


def main() -> int:
    """Print each mutant's fate; the exit code is the number of survivors."""
    chosen = [m for m in MUTANTS if not sys.argv[1:] or any(word in m.name for word in sys.argv[1:])]
    survivors = 0
    for i, mutant in enumerate(chosen, 1):
        dead = killed(mutant)
        survivors += not dead
        print(f"{i:3} of {len(chosen)}  {'killed  ' if dead else 'SURVIVED'}  {mutant.name}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants killed")
    return survivors


if __name__ == "__main__":
    sys.exit(main())
