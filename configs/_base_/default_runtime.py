custom_imports = dict(imports=['cakd_mm'], allow_failed_imports=False)
default_scope = 'mmpretrain'

# A dict merges by key, so that a config can change one hook and keep the rest.
default_hooks = dict(
    # Losses are read when they are logged; reading them makes a GPU wait.
    runtime_info=dict(type='DeferredInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # As mmengine's CheckpointHook; a kill at any moment leaves whole checkpoints.
    checkpoint=dict(type='WholeCheckpointHook', interval=1, max_keep_ckpts=3),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='VisualizationHook', enable=False),
    # Let all ranks have the same config, teacher and weights, or stop all of them.
    same_ranks=dict(type='SameRanksHook'),
    # Stop at nan or inf with step, component and advice.
    finite=dict(type='FiniteLossHook', interval=100),
    # Refuse labels the head has no output for.
    labels=dict(type='LabelRangeHook'),
    # Train images without labels from the teacher alone, if the model asks for it.
    unlabelled=dict(type='UnlabelledHook'),
    # Refuse teacher, data and checkpoints that name other classes.
    class_names=dict(type='ClassNamesHook'),
    # Refuse batches of one image that a part of the model cannot train on.
    single_image=dict(type='SingleImageHook'),
    # Refuse top-level keys of mmengine's that would train this model wrong.
    runner_keys=dict(type='RunnerKeysHook'),
    # Compare channel order and size of the images with the teacher's training.
    teacher_images=dict(type='TeacherImagesHook'),
    # bcd, scd, wcd, r, lambda ... of every distillation loss in the log.
    terms=dict(type='DistillTermsHook'),
    # For losses that change with the epoch, and those that know every image.
    distill_epoch=dict(type='DistillEpochHook'),
    sample_index=dict(type='SampleIndexHook'),
    # Losses that compare two views of an image see two.
    views=dict(type='ViewsHook'),
    # Several ranks go on where parameters get no gradient.
    unused=dict(type='UnusedParametersHook'),
    # And stop in a step in which they have not exchanged all gradients.
    exchanged=dict(type='ExchangedGradientsHook'),
    # Several ranks score and save the mean of their running statistics.
    buffers=dict(type='AverageBuffersHook'),
    # student.pth and student.py in the work dir at the end of training.
    extract=dict(type='ExtractStudentHook'),
    # What is trained; in a terminal a bar and a line for each epoch; what came out.
    progress=dict(type='ProgressHook'),
    summary=dict(type='SummaryHook'),
    # Keep the last values of each logged scalar, not those of the whole run.
    history=dict(type='BoundedHistoryHook'),
    # Ranks end with their torchrun, and send their scores: machines may share no disk.
    launcher=dict(type='EndWithLauncherHook'),
    gathered_scores=dict(type='GatheredScoresHook'),
    # A GPU waits for no batch, and once for what a batch has scored.
    packed_copies=dict(type='PackedCopiesHook'),
    # trackers.to='tensorboard', 'wandb' or 'mlflow' sends log, config and pictures.
    trackers=dict(type='TrackersHook'),
)

env_cfg = dict(
    # Pays where images have one size; randomness.deterministic=True turns it off.
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # Seconds that a rank waits for the others before it ends with an error.
    dist_cfg=dict(backend='nccl', timeout=600),
)
visualizer = dict(
    type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')]
)
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0, deterministic=False)
