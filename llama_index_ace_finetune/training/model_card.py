"""The model's README.md, in the form that model hubs read."""

from __future__ import annotations

import json
from typing import Any

from jinja2 import Environment

# Texts of users never get into the card; what does is numbers, names and settings.
_TEMPLATE = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
base_model: {{ base_model | tojson }}
tags: [sentence-transformers, feature-extraction, retrieval, llama-index-ace-finetune]
---

# Embedding model fine-tuned with llama-index-ace-finetune

| | |
|---|---|
| Base model | `{{ base_model }}` (fingerprint `{{ base_fingerprint }}`) |
| Fingerprint | `{{ fingerprint }}` |
| Ships | {{ "tuned weights, share %.2f of the way from the base" % selection.share if selection and selection.share
 else "the base model: tuning did not beat it on dev" if selection else "tuned weights, unchecked: there were no dev queries" }} |
| Data | {{ data.source | default("unknown") }}: {{ data.total_examples | default("?") }} examples, {{ data.memories }} memories |
| Split | {% if split and split.counts %}{% for name, count in split.counts.items() %}{% if count is mapping %}{{ name }} {{ count.queries }} queries{{ ", " if not loop.last }}{% endif %}{% endfor %}
{%- else %}made at training time{% endif %} |
| Query prompt | `{{ prompts.query | default("") }}` |
| Document prompt | `{{ prompts.document | default("") }}` |
| Training | {{ metrics.epochs | default("?") }} epochs, {{ metrics.total_steps | default("?") }} steps, {{ metrics.training_time_seconds | default("?") }} s |

{% if selection %}
## Chosen on dev queries (never trained on)

Rule: {{ selection.rule }}

| share of tuned weights | {% for name in selection.dev_candidates["0.0"] %}{{ name }} | {% endfor %}

|---|{% for name in selection.dev_candidates["0.0"] %}---|{% endfor %}

{% for share, means in selection.dev_candidates.items() -%}
| {{ share }}{{ " (base)" if share == "0.0" }} | {% for value in means.values() %}{{ "%.3f" % value }} | {% endfor %}

{% endfor %}
Difference in MRR@10 to the base: {{ "%+.3f" % selection["dev_difference_mrr@10"].mean }}
(95 % interval {{ "%+.3f" % selection["dev_difference_mrr@10"].low }} to {{ "%+.3f" % selection["dev_difference_mrr@10"].high }}).
{% endif %}

## Use

```python
from llama_index_ace_finetune import FineTunedEmbedding

embed_model = FineTunedEmbedding(model_name="path/to/this/folder")
```

## Settings

```json
{{ config }}
```
"""


def model_card(provenance: dict[str, Any]) -> str:
    """Return the card for the record that is saved beside the model."""
    template = Environment(autoescape=False, trim_blocks=True).from_string(_TEMPLATE)  # noqa: S701 - markdown
    return template.render(**{**provenance, "config": json.dumps(provenance["config"], indent=2)})
