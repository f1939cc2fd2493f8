"""The commands, one a file: its options, its job, its words.

demo        the main job on an embedded data set
demo_text   the same on a small language model
demo_check  what both end with: predicted and actual changes
check       two steps on a copy: what can be recorded, and what it costs
train       train with recording
attribute   contributions of single training samples
influence   the same for a model trained elsewhere, from its checkpoints
smoothness  whether derivatives predict removals on this run
verify      predicted against actual removals
bank        what really happened without random groups, in a small file
evaluate    scores of any library against such a file
bound       the error of dropping the curvature
clean       suspects treated in several ways, each really trained, and which helps
reweight    loss weights from contributions, really trained
export      suspects for the tool in which labels are mended
report      one HTML page about a run
explain     the training samples that moved one prediction
info        what a run directory holds
"""
