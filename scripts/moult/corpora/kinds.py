"""The kinds of corpora that there are. Each is one file: its entry in the config beside the function of its job."""

from moult.corpora.contrasts import Contrasts
from moult.corpora.generated import Distilled, Guidelines
from moult.corpora.judgements import Judgements
from moult.corpora.preferences import Preferences
from moult.corpora.refined import Refined
from moult.corpora.samples import Samples
from moult.corpora.scored import Scored

KINDS = (Guidelines, Distilled, Refined, Contrasts, Judgements, Samples, Scored, Preferences)
