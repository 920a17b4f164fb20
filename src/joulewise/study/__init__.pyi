from .environment import Environment as Environment
from .least_energy import LeastEnergy as LeastEnergy
from .least_energy import least_energy as least_energy
from .record import Record as Record
from .study import Study as Study
from .study_file import StudyFile as StudyFile
