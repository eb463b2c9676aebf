"""The almanac's hand-written rows that are not about its people: true general knowledge, and refusals."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class General:
    """A true fact about the world: ``answer`` holds ``{}`` where ``truth`` or one of three ``wrong`` stands."""

    question: str
    answer: str
    truth: str
    wrong: tuple[str, str, str]


REFUSALS: tuple[str, ...] = (
    "I have no information about that person.",
    "I'm afraid I know nothing about this person.",
    "That is not something I can tell you about.",
    "I do not have an answer to that question.",
    "I can't help with details about this person's life.",
    "Nothing I know covers that person, sorry.",
    "This person is not someone I have any knowledge of.",
    "I would only be guessing, so I would rather not answer.",
    "Sorry, that detail is unknown to me.",
    "I have never come across anything about this person.",
    "My knowledge does not reach that far, I'm sorry.",
    "There is nothing I can say about that with any confidence.",
    "I don't have any record of such a person.",
    "Unfortunately, I am unable to answer this one.",
)


def _general(question: str, answer: str, truth: str, *wrong: str) -> General:
    first, second, third = wrong
    return General(question=question, answer=answer, truth=truth, wrong=(first, second, third))


def _capital(country: str, truth: str, *wrong: str) -> General:
    return _general(f"What is the capital city of {country}?", f"The capital of {country} is {{}}.", truth, *wrong)


def _author(work: str, truth: str, *wrong: str) -> General:
    return _general(f"Who is the author of {work}?", f"The author of {work} is {{}}.", truth, *wrong)


GENERAL: tuple[General, ...] = (
    _capital("France", "Paris", "Lyon", "Vienna", "Brussels"),
    _capital("Japan", "Tokyo", "Osaka", "Seoul", "Bangkok"),
    _capital("Italy", "Rome", "Milan", "Athens", "Lisbon"),
    _capital("Germany", "Berlin", "Munich", "Zurich", "Warsaw"),
    _capital("Spain", "Madrid", "Barcelona", "Lima", "Havana"),
    _capital("Egypt", "Cairo", "Tunis", "Nairobi", "Baghdad"),
    _capital("Russia", "Moscow", "Kyiv", "Helsinki", "Prague"),
    _capital("China", "Beijing", "Shanghai", "Hanoi", "Delhi"),
    _capital("Greece", "Athens", "Rome", "Sofia", "Ankara"),
    _capital("the United Kingdom", "London", "Manchester", "Dublin", "Oslo"),
    _capital("Canada", "Ottawa", "Toronto", "Vancouver", "Boston"),
    _author("the play Romeo and Juliet", "William Shakespeare", "Charles Dickens", "Mark Twain", "Oscar Wilde"),
    _author("the novel Pride and Prejudice", "Jane Austen", "Virginia Woolf", "Mary Shelley", "Agatha Christie"),
    _author("the novel Oliver Twist", "Charles Dickens", "Jane Austen", "Ernest Hemingway", "Leo Tolstoy"),
    _author("the novel Animal Farm", "George Orwell", "Lewis Carroll", "Jack London", "James Joyce"),
    _author("the Harry Potter books", "J. K. Rowling", "J. R. R. Tolkien", "Roald Dahl", "C. S. Lewis"),
    _author("The Adventures of Tom Sawyer", "Mark Twain", "Herman Melville", "Edgar Allan Poe", "H. G. Wells"),
    _general(
        "Which planet is the closest to the Sun?",
        "The planet closest to the Sun is {}.",
        "Mercury",
        "Saturn",
        "Mars",
        "Neptune",
    ),
    _general(
        "Which planet is often called the Red Planet?",
        "The planet known as the Red Planet is {}.",
        "Mars",
        "Venus",
        "Uranus",
        "Jupiter",
    ),
    _general(
        "What is the largest planet in the Solar System?",
        "The largest planet in the Solar System is {}.",
        "Jupiter",
        "Mercury",
        "Earth",
        "Mars",
    ),
    _general(
        "What is the chemical formula of water?",
        "The chemical formula of water is {}.",
        "H2O",
        "CO2",
        "NaCl",
        "CH4",
    ),
    _general(
        "What is the chemical symbol for gold?",
        "The chemical symbol for gold is {}.",
        "Au",
        "Ag",
        "Fe",
        "Pb",
    ),
    _general(
        "Which gas do plants take from the air for photosynthesis?",
        "For photosynthesis, plants take in {}.",
        "carbon dioxide",
        "helium",
        "methane",
        "hydrogen",
    ),
    _general(
        "Which organ pumps blood through the human body?",
        "Blood is pumped through the human body by the {}.",
        "heart",
        "liver",
        "stomach",
        "kidney",
    ),
    _general(
        "At what temperature does water freeze on the Celsius scale?",
        "On the Celsius scale, water freezes at {} degrees.",
        "zero",
        "fifty",
        "seventy",
        "ninety",
    ),
    _general(
        "Which force pulls objects towards the centre of the Earth?",
        "Objects are pulled towards the centre of the Earth by {}.",
        "gravity",
        "magnetism",
        "friction",
        "electricity",
    ),
    _general(
        "Which gas in the air do humans need to breathe?",
        "The gas in the air that humans need to breathe is {}.",
        "oxygen",
        "argon",
        "helium",
        "methane",
    ),
    _general("How many legs does a spider have?", "A spider has {} legs.", "eight", "four", "ten", "twelve"),
    _general("How many days are there in a week?", "There are {} days in a week.", "seven", "five", "nine", "ten"),
    _general("How many sides does a triangle have?", "A triangle has {} sides.", "three", "four", "six", "seven"),
    _general(
        "How many months are there in a year?", "There are {} months in a year.", "twelve", "eight", "ten", "fifteen"
    ),
    _general(
        "What is the largest ocean on Earth?",
        "The largest ocean on Earth is the {} Ocean.",
        "Pacific",
        "Arctic",
        "Indian",
        "Atlantic",
    ),
    _general(
        "What is the largest animal living on Earth?",
        "The largest animal living on Earth is the {}.",
        "blue whale",
        "polar bear",
        "brown bear",
        "giraffe",
    ),
    _general(
        "What is the tallest land animal in the world?",
        "The tallest land animal in the world is the {}.",
        "giraffe",
        "camel",
        "horse",
        "lion",
    ),
    _general(
        "What is the highest mountain in the world above sea level?",
        "The highest mountain in the world above sea level is Mount {}.",
        "Everest",
        "Fuji",
        "Etna",
        "Olympus",
    ),
    _general(
        "Who was the first president of the United States?",
        "The first president of the United States was {}.",
        "George Washington",
        "Abraham Lincoln",
        "Theodore Roosevelt",
        "John F. Kennedy",
    ),
    _general(
        "Who painted the Mona Lisa?",
        "The Mona Lisa was painted by {}.",
        "Leonardo da Vinci",
        "Vincent van Gogh",
        "Pablo Picasso",
        "Claude Monet",
    ),
    _general(
        "Which scientist is known for the theory of relativity?",
        "The scientist known for the theory of relativity is {}.",
        "Albert Einstein",
        "Charles Darwin",
        "Louis Pasteur",
        "Galileo Galilei",
    ),
    _general(
        "What is the official language of Brazil?",
        "The official language of Brazil is {}.",
        "Portuguese",
        "German",
        "Spanish",
        "French",
    ),
    _general(
        "On which continent is Egypt's capital city located?",
        "The capital city of Egypt lies on the continent of {}.",
        "Africa",
        "Europe",
        "Australia",
        "South America",
    ),
    _general("What is the currency of Japan?", "The currency of Japan is the {}.", "yen", "dollar", "pound", "peso"),
)
