"""Story: in five steps, for an audience, how an early-exit network is fooled where its own end is not."""

from ui import scenes, story, tale
from ui.controls import setting_controls
from ui.shell import kind_errors, page_setup

page_setup("Story", sidebar="collapsed")

with kind_errors():
    sent, why_not = tale.take_up()  # before the controls, which it may set
    setting = setting_controls()
    step = story.steps()
    told = story.told(setting, sent, why_not)
    if told:
        scenes.show(step, told)
        story.fine_print(told)
