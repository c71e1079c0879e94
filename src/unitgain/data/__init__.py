"""Training data: any pictures prepared (`prepare`) and opened (`prepared`), or arrays in memory (`dataset`); what the
network sees of them (`encoder`); in which order (`order`) they are read (`loader`).
"""

from unitgain.lazy import offer

__getattr__, __dir__ = offer(__name__)
