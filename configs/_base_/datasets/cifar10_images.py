# CIFAR-10 from a folder of images, data/cifar10/{train,test}/<class>/*.jpg, decoded
# once and kept in memory. As CIFAR-100 in all else.
# Statistics: tools/dataset_tools/measure_statistics.py on the 50,000 training images.
_base_ = './cifar100.py'

data_preprocessor = dict(
    num_classes=10,
    mean=[125.27, 122.93, 113.86],
    std=[62.53, 61.91, 66.46],
    to_rgb=True,
)

dataset = dict(_delete_=True, type='DecodedImages', data_root='data/cifar10', size=32)
train_dataloader = dict(
    dataset=dict(data_prefix='train', pipeline=_base_.train_pipeline, **dataset)
)
val_dataloader = dict(
    batch_size=256,
    dataset=dict(data_prefix='test', pipeline=_base_.test_pipeline, **dataset),
)
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator
del dataset
