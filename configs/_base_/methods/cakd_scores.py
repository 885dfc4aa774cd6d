# As kd_scores.py, with CAKD's weights of the classes that the teacher sees (beta) and
# of all others (gamma). The paper has no such experiment: the numbers are those of its
# features.
_base_ = './kd_scores.py'
loss = dict(loss=dict(beta=8.0, gamma=2.0))

distiller = dict(distill_losses=dict(loss_scores=dict(loss=loss)))
del loss
