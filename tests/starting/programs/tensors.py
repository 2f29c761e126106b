import torch
from facts import record

torch.manual_seed(3)
a = torch.rand(400, 400)
record("product", round(float((a @ a).sum()), 0))
record("threads", [torch.get_num_threads(), torch.get_num_interop_threads()])
weight = torch.rand(10, 10, requires_grad=True)
(weight @ weight).sum().backward()
record("gradient", tuple(weight.grad.shape))
