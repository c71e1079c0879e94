"""The runtime type checker of the tests: beartype, and jaxtyping around it where annotations name dimensions.

jaxtyping binds the arguments of each call anew, to compare dimensions between them; where there are none to compare,
that would be most of the time that small tests take.
"""

import dataclasses
import functools
import inspect
import typing

import jaxtyping
from beartype import BeartypeConf, beartype

# The numeric tower of PEP 484 has ints among floats. What is wrong is a TypeError, as with jaxtyping.
check = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=TypeError))
_comparing = jaxtyping.jaxtyped


def has_shapes(annotation):
    """Whether an annotation names dimensions, or is a text, of which nobody knows."""
    if isinstance(annotation, str | typing.ForwardRef):
        return True
    if inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    parts = annotation if isinstance(annotation, list | tuple) else typing.get_args(annotation)
    return any(has_shapes(part) for part in parts)


def jaxtyped(function=None, *, typechecker):
    """What the import hook calls on all functions and classes."""
    if function is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    called = function.__init__ if dataclasses.is_dataclass(function) else function
    if inspect.isclass(called) or any(map(has_shapes, called.__annotations__.values())):
        return _comparing(function, typechecker=typechecker)
    checked = check(called)

    @functools.wraps(called)
    def wrapped(*args, **kwargs):
        return (called if jaxtyping.config.jaxtyping_disable else checked)(*args, **kwargs)

    if called is function:
        return wrapped
    function.__init__ = wrapped
    return function


jaxtyping.jaxtyped = jaxtyped
