"""Per-operation goldens: each function returns a list of cases, (attributes, name -> tensor).

Inputs are drawn in f32 and every result is computed in f64 from them, so what is stored is the true value rounded
once. Activations are turned to NHWC on the way out; parameters stay in PyTorch's layout.
"""
import torch
import torch.nn.functional as F

import reference


def draw(*shape, scale=1.0):
    """Normal values that f32 holds exactly, as f64."""
    return (torch.randn(*shape) * scale).double()


def leaf(*shape, scale=1.0):
    return draw(*shape, scale=scale).requires_grad_()


def nhwc(tensor):
    return tensor.permute(0, 2, 3, 1)


def backward(y):
    """A random upstream gradient of y, sent back to every leaf."""
    dy = draw(*y.shape)
    y.backward(dy)
    return dy


def convolution(function, sources, w, b):
    """One convolution over the concatenation of its sources."""
    y = function(torch.cat(sources, 1), w, b)
    dy = backward(y)
    names = ["x"] if len(sources) == 1 else [f"x{i}" for i in range(len(sources))]
    case = {name: nhwc(x) for name, x in zip(names, sources)}
    case.update(w=w, b=b, dy=nhwc(dy), y=nhwc(y))
    case.update({f"d{name}": nhwc(x.grad) for name, x in zip(names, sources)})
    case.update(dw=w.grad, db=b.grad)
    return case


def conv3x3():
    def same(x, w, b):
        return F.conv2d(x, w, b, padding=1)

    cases = []
    for n, h, w, c_in, c_out in ((2, 6, 10, [4], 8), (1, 5, 7, [12], 16), (2, 6, 10, [8, 4], 8), (1, 10, 6, [4, 4], 8),
                                 (2, 8, 6, [2], 8), (1, 5, 9, [3], 8), (3, 1, 1, [8], 16)):
        weight, bias = leaf(c_out, sum(c_in), 3, 3, scale=0.3), leaf(c_out)
        sources = [leaf(n, c, h, w) for c in c_in]
        cases.append(({"padding": 1, "sources": len(c_in)}, convolution(same, sources, weight, bias)))
    return cases


def conv1x1():
    cases = []
    for n, h, w, c_in, c_out in ((2, 6, 10, 8, 4), (1, 5, 7, 12, 16), (2, 6, 10, 4, 1), (3, 1, 1, 16, 8)):
        weight, bias = leaf(c_out, c_in, 1, 1, scale=0.3), leaf(c_out)
        cases.append(({}, convolution(F.conv2d, [leaf(n, c_in, h, w)], weight, bias)))
    return cases


def conv_transpose2x2():
    def double(x, w, b):
        return F.conv_transpose2d(x, w, b, stride=2)

    cases = []
    for n, h, w, c_in, c_out in ((2, 3, 5, 16, 8), (1, 5, 7, 8, 4), (2, 1, 1, 8, 12)):
        weight, bias = leaf(c_in, c_out, 2, 2, scale=0.3), leaf(c_out)
        cases.append(({"stride": 2}, convolution(double, [leaf(n, c_in, h, w)], weight, bias)))
    return cases


def batch_norm_case(n, h, w, c, training):
    attributes = {"training": training, "momentum": 0.1, "eps": 1e-5}
    x = (draw(n, c, h, w) * (1 + torch.rand(c, 1, 1).double()) + draw(c, 1, 1)).float().double().requires_grad_()
    gamma, beta = (1 + draw(c, scale=0.3)).float().double().requires_grad_(), leaf(c, scale=0.3)
    mean, var = draw(c, scale=0.2), (0.5 + torch.rand(c)).double()
    case = {"x": nhwc(x), "gamma": gamma, "beta": beta, "running_mean": mean.clone(), "running_var": var.clone()}
    y = F.batch_norm(x, mean, var, gamma, beta, training, attributes["momentum"], attributes["eps"])
    dy = backward(y)
    case.update(dy=nhwc(dy), y=nhwc(y), running_mean_after=mean, running_var_after=var)
    case.update(dx=nhwc(x.grad), dgamma=gamma.grad, dbeta=beta.grad)
    return attributes, case


def batch_norm():
    shapes = ((2, 6, 10, 8), (2, 6, 10, 1), (1, 5, 7, 12))
    return [batch_norm_case(*shape, training) for training in (True, False) for shape in shapes]


def unary(function, x):
    y = function(x)
    dy = backward(y)
    return {"x": nhwc(x), "dy": nhwc(dy), "y": nhwc(y), "dx": nhwc(x.grad)}


def relu():
    return [({}, unary(F.relu, leaf(2, 8, 6, 10))), ({}, unary(F.relu, leaf(1, 1, 5, 7)))]


def sigmoid():
    wide = torch.linspace(-30, 30, 5 * 7).reshape(1, 1, 5, 7).double().requires_grad_()
    return [({}, unary(torch.sigmoid, leaf(2, 1, 6, 10))), ({"range": "wide"}, unary(torch.sigmoid, wide))]


def max_pool2x2():
    """In the case `ties` the first maximum of a window, in row order, takes the gradient."""
    ties = torch.randint(0, 3, (2, 4, 6, 10)).double().requires_grad_()
    inputs = [("none", leaf(2, 8, 6, 10)), ("none", leaf(1, 4, 2, 2)), ("many", ties)]
    return [({"ties": name}, unary(lambda x: F.max_pool2d(x, 2), x)) for name, x in inputs]


def binary(function, a, b):
    y = function(a, b)
    dy = backward(y)
    return {"a": nhwc(a), "b": nhwc(b), "dy": nhwc(dy), "y": nhwc(y), "da": nhwc(a.grad), "db": nhwc(b.grad)}


def add():
    return [({}, binary(torch.add, leaf(n, c, h, w), leaf(n, c, h, w))) for n, c, h, w in ((2, 4, 6, 10), (1, 8, 5, 7))]


def gate():
    """y = x * psi, psi with one channel."""
    cases = []
    for n, c, h, w in ((2, 8, 6, 10), (1, 4, 5, 7)):
        case = binary(torch.mul, leaf(n, c, h, w), torch.rand(n, 1, h, w).double().requires_grad_())
        names = {"a": "x", "b": "psi", "da": "dx", "db": "dpsi"}
        cases.append(({}, {names.get(name, name): value for name, value in case.items()}))
    return cases


def resize_bilinear():
    cases = []
    for n, source, target in ((2, (6, 10), (12, 20)), (1, (12, 20), (6, 10)), (1, (5, 7), (10, 14)),
                              (2, (6, 10), (9, 11)), (2, (1, 1), (2, 2))):
        def resize(x, target=target):
            return F.interpolate(x, size=target, mode="bilinear", align_corners=False)

        attributes = {"from": source, "to": target, "align_corners": False}
        cases.append((attributes, unary(resize, leaf(n, 4, *source))))
    return cases


def bce_dice():
    """Case 0: ordinary logits. Case 1: one sample without target. Case 2: logits far out, where p is 0 or 1 in f32."""
    cases = []
    for scale, empty in ((1.5, False), (1.5, True), (25.0, False)):
        logits, y = leaf(3, 1, 6, 10, scale=scale), (torch.rand(3, 1, 6, 10) > 0.7).double()
        if empty:
            y[1] = 0
        loss = reference.bce_dice_from_logits(logits, y)
        loss.backward()
        if scale < 10:
            torch.testing.assert_close(loss, reference.bce_dice(torch.sigmoid(logits), y))
        case = {"logits": nhwc(logits), "target": nhwc(y), "loss": loss, "dlogits": nhwc(logits.grad)}
        cases.append(({"dice_weight": 0.5, "smooth": 1e-6}, case))
    return cases


def losses():
    """The losses besides the pipeline's own; the target is -1 where a pixel is ignored, in all cases but the first of a
    kind. Of each sample only the pixels that count are kept: what is ignored must not matter."""
    def weighted(z, y, pos_weight, dice_weight):
        bce = F.binary_cross_entropy_with_logits(z[y >= 0], y[y >= 0], pos_weight=torch.tensor(pos_weight).double())
        return (1 - dice_weight) * bce + dice_weight * (1 - overlap(z, y, lambda tp, fp, fn: 2 * tp + fp + fn, 2))

    def focal(z, y, gamma, alpha):
        z, y = z[y >= 0], y[y >= 0]
        p = torch.sigmoid(z)
        p_t, alpha_t = p * y + (1 - p) * (1 - y), alpha * y + (1 - alpha) * (1 - y)
        surprise = F.binary_cross_entropy_with_logits(z, y, reduction="none")
        return (alpha_t * (1 - p_t) ** gamma * surprise).mean()

    def tversky(z, y, alpha, beta):
        return 1 - overlap(z, y, lambda tp, fp, fn: tp + alpha * fp + beta * fn, 1)

    def overlap(z, y, below, hits):
        indices = []
        for z, y in zip(z, y):
            p, y = torch.sigmoid(z[y >= 0]), y[y >= 0]
            tp, fp, fn = (p * y).sum(), (p * (1 - y)).sum(), ((1 - p) * y).sum()
            indices.append((hits * tp + 1e-6) / (below(tp, fp, fn) + 1e-6))
        return torch.stack(indices).mean()

    cases = []
    for function, settings in (
            (weighted, {"pos_weight": 3.0, "dice_weight": 0.25}), (weighted, {"pos_weight": 0.5, "dice_weight": 0.5}),
            (focal, {"gamma": 2.0, "alpha": 0.25}), (focal, {"gamma": 0.5, "alpha": 0.75}),
            (tversky, {"alpha": 0.3, "beta": 0.7}), (tversky, {"alpha": 0.9, "beta": 0.4})):
        first = not any(attributes["loss"] == function.__name__ for attributes, _ in cases)
        logits, y = leaf(3, 1, 6, 10, scale=2.0), (torch.rand(3, 1, 6, 10) > 0.7).double()
        if not first:
            y[torch.rand_like(y) > 0.8] = -1
        loss = function(logits, y, **settings)
        loss.backward()
        case = {"logits": nhwc(logits), "target": nhwc(y), "loss": loss, "dlogits": nhwc(logits.grad)}
        cases.append(({"loss": function.__name__, **settings}, case))
    return cases


def clip_norm():
    """`torch.nn.utils.clip_grad_norm_` over three tensors: `clipped` are the gradients after it, `norm` is what it
    returns. Case 0 is above the limit, case 1 below."""
    cases = []
    for most in (0.5, 100.0):
        parameters = [leaf(*shape) for shape in ((4, 3), (8,), (3, 4))]
        for parameter in parameters:
            parameter.grad = draw(*parameter.shape)
        flat = lambda: torch.cat([parameter.grad.flatten() for parameter in parameters])
        case = {"grads": flat().clone()}
        norm = torch.nn.utils.clip_grad_norm_(parameters, most)
        case.update(norm=norm, clipped=flat())
        cases.append(({"most": most}, case))
    return cases


def adamw():
    """Ten steps with given gradients [10, n]; param_first is the parameter after the first of them."""
    attributes = {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01, "steps": 10}
    param = leaf(37)
    # Gradients of very different sizes, some of them zero: the moments and eps all matter.
    grads = draw(10, 37) * 10.0 ** torch.linspace(-8, 2, 37).double()
    grads[:, ::9] = 0
    grads = grads.float().double()
    case = {"param": param.clone(), "grads": grads}
    optimizer = torch.optim.AdamW([param], lr=attributes["lr"], weight_decay=attributes["weight_decay"])
    for step, grad in enumerate(grads):
        param.grad = grad.clone()
        optimizer.step()
        if step == 0:
            case["param_first"] = param.clone()
    state = optimizer.state[param]
    case.update(param_after=param, exp_avg=state["exp_avg"], exp_avg_sq=state["exp_avg_sq"])
    return [(attributes, case)]


def metrics():
    """Case 1 holds a sample without target or prediction (both 1) and one with no overlap."""
    cases = []
    for special in (False, True):
        logits, y = draw(3, 1, 6, 10), (torch.rand(3, 1, 6, 10) > 0.6).double()
        if special:
            y[0], logits[0] = 0, -3
            logits[1] = torch.where(y[1] > 0.5, -2.0, 2.0).double()
        p = torch.sigmoid(logits)
        tp, fp, fn = reference.counts(p, y)
        iou, f1 = reference.iou_f1(tp, fp, fn)
        case = {"logits": nhwc(logits), "p": nhwc(p), "target": nhwc(y), "tp": tp, "fp": fp, "fn": fn}
        case.update(iou=iou, f1=f1, iou_mean=iou.mean(), f1_mean=f1.mean())
        cases.append(({"threshold": 0.5, "smooth": 1e-6}, case))
    return cases


ALL = (conv3x3, conv1x1, conv_transpose2x2, batch_norm, relu, sigmoid, max_pool2x2, add, gate, resize_bilinear,
       bce_dice, losses, clip_norm, adamw, metrics)
