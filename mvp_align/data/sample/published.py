"""PRISM's aggregate figures about its 1,500 people, from which we draw the synthetic users.

Counts and moments of HannahRoseKirk/prism-alignment (Kirk et al. 2024, survey CC-BY-4.0). No row of
the survey is included.
"""

PREFER_NOT = "Prefer not to say"

AGE = {
    "18-24 years old": 297,
    "25-34 years old": 454,
    "35-44 years old": 237,
    "45-54 years old": 208,
    "55-64 years old": 197,
    "65+ years old": 106,
    PREFER_NOT: 1,
}

GENDER = {"Male": 757, "Female": 718, "Non-binary / third gender": 21, PREFER_NOT: 4}

EMPLOYMENT = {
    "Working full-time": 712,
    "Working part-time": 265,
    "Student": 191,
    "Unemployed, seeking work": 113,
    "Retired": 104,
    "Homemaker / Stay-at-home parent": 46,
    "Unemployed, not seeking work": 46,
    PREFER_NOT: 23,
}

EDUCATION = {
    "University Bachelors Degree": 637,
    "Graduate / Professional degree": 241,
    "Some University but no degree": 236,
    "Completed Secondary School": 209,
    "Vocational": 125,
    "Some Secondary": 24,
    "Completed Primary School": 16,
    PREFER_NOT: 9,
    "Some Primary": 3,
}

MARITAL = {
    "Never been married": 870,
    "Married": 463,
    "Divorced / Separated": 123,
    PREFER_NOT: 23,
    "Widowed": 21,
}

ENGLISH = {"Native speaker": 886, "Fluent": 405, "Advanced": 160, "Intermediate": 42, "Basic": 7}

_COUNTRIES_BY_COUNT = {
    338: ("United States",),
    292: ("United Kingdom",),
    91: ("South Africa",),
    69: ("Mexico",),
    65: ("Australia",),
    64: ("New Zealand",),
    63: ("Chile",),
    50: ("Canada",),
    47: ("Israel",),
    19: ("Nigeria", "Spain"),
    17: ("Belgium", "Germany", "Hungary", "Ireland", "Poland"),
    16: ("Latvia",),
    15: ("Czechia", "Denmark", "Norway"),
    14: ("France", "Greece", "Italy", "Switzerland"),
    12: ("Finland",),
    11: ("Austria", "Estonia"),
    10: ("Slovenia",),
    9: ("India", "Japan", "Korea, Republic of", "Netherlands"),
    8: ("Portugal",),
    7: ("Philippines", "Romania", "Sweden"),
    6: ("Russian Federation",),
    4: ("Bangladesh", "China", "Ukraine"),
    3: (
        "Dominican Republic",
        "Ghana",
        "Hong Kong",
        "Indonesia",
        "Pakistan",
        "Venezuela, Bolivarian Republic of",
        PREFER_NOT,
    ),
    2: ("Argentina", "Kazakhstan", "Sri Lanka", "Türkiye", "Viet Nam"),
}
BIRTH_COUNTRY = {name: count for count, names in _COUNTRIES_BY_COUNT.items() for name in names}
"""Countries with at least two people. The 23 countries with one person each are left out."""

SCORES = {
    "creativity": (69.6, 22.1),
    "fluency": (86.7, 16.3),
    "factuality": (88.7, 16.2),
    "diversity": (75.7, 20.0),
    "safety": (80.2, 25.2),
    "personalisation": (67.9, 24.6),
    "helpfulness": (89.4, 14.4),
}
"""Mean and standard deviation of each stated score, 0-100."""

CORRELATIONS = {
    ("creativity", "personalisation"): 0.48,
    ("creativity", "safety"): 0.20,
    ("creativity", "diversity"): 0.34,
    ("creativity", "factuality"): 0.21,
    ("creativity", "fluency"): 0.29,
    ("creativity", "helpfulness"): 0.25,
    ("personalisation", "safety"): 0.17,
    ("personalisation", "diversity"): 0.30,
    ("personalisation", "factuality"): 0.18,
    ("personalisation", "fluency"): 0.24,
    ("personalisation", "helpfulness"): 0.22,
    ("safety", "diversity"): 0.23,
    ("safety", "factuality"): 0.35,
    ("safety", "fluency"): 0.34,
    ("safety", "helpfulness"): 0.35,
    ("diversity", "factuality"): 0.37,
    ("diversity", "fluency"): 0.34,
    ("diversity", "helpfulness"): 0.34,
    ("factuality", "fluency"): 0.58,
    ("factuality", "helpfulness"): 0.62,
    ("fluency", "helpfulness"): 0.63,
}
"""Pearson correlations of the stated scores, every pair of the seven."""
