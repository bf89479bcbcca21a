"""The operating system: one module for each thing that a platform may lack.

If platforms need different code for it, each variant is a file beside that module, which chooses one when it is
loaded: :mod:`mprelay.system.poller`, :mod:`mprelay.system.passing`,
:mod:`mprelay.system.pipes`. A difference of a line or two stays in its module, behind ``sys.platform``.
"""
