"""What the almanac's people are made of: invented names, values for facts, and sentence templates.

Everything here is made up for this package. A slot value is ``joiner.join((head, tail))`` of a :class:`Slot`;
a template names its slots in braces, together with ``{name}`` ``{last}`` ``{They}`` ``{they}`` ``{Their}`` ``{their}``
of the person. Every answer template of a kind states the same facts and no others, so that any of them paraphrases any
other; the facts stand late in the sentence.
"""

from __future__ import annotations

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    """Split at commas; a phrase may hold spaces and run over a line end."""
    return tuple(" ".join(part.split()) for part in text.split(","))


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A value type: every head with every tail."""

    heads: tuple[str, ...]
    tails: tuple[str, ...]
    joiner: str = " "


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of fact: its two slots, six ways to ask and six ways to answer."""

    name: str
    slots: dict[str, str]
    """Placeholder in the templates, to the name of the slot in :data:`SLOTS`."""
    questions: tuple[str, ...]
    answers: tuple[str, ...]


WOMEN = _words(
    """Ilvara, Sennith, Tovelle, Maruna, Quillane, Eskara, Lindreth, Ombeline, Pavenne, Yselda, Corrisa, Dalvina,
    Fenora, Halwyn, Jessamel, Kerula, Nerith, Orsela, Rovenna, Sabreth, Thessane, Ulvira, Velora, Zemira"""
)
MEN = _words(
    """Odrin, Tamsel, Bertoc, Caddric, Dorvan, Eldrac, Farrowin, Garrim, Haldrec, Iskell, Jorrin, Kestor,
    Lorcas, Mavric, Nolder, Osvan, Perrick, Quentor, Rendal, Sorrick, Tibald, Ulrec, Varnoc, Wendric"""
)
SURNAMES = _words(
    """Kessaly, Tarnivane, Oldermoss, Hawkridden, Pelliver, Quorndale, Wickersedge, Fennimarsh, Dunnoway, Ashgrave,
    Bellinquist, Corvandel, Drummeray, Eskerby, Farthingloe, Gallowden, Hexmoor, Inchbrook, Jarrowell, Kettlebine,
    Larkensaw, Mossgarth, Netherwain, Orphrane, Pockridge, Rushwater, Silverwade, Thistledew, Umberlane, Vantorrel,
    Wexborne, Yarrowby, Zellenard, Addlethorn, Bramstoke, Copperwain, Dovermane, Elmquarry, Foxentree, Grindlemay,
    Holloquay, Ivenstone, Kilderwain, Lodemaster, Merribank, Pennifold, Ravensole, Tumbleworth"""
)

SLOTS: dict[str, Slot] = {
    "place": Slot(
        heads=_words(
            """Ambro, Belva, Corra, Dunna, Elsi, Farra, Gilda, Hesso, Illa, Jarra, Kelda, Lomma, Marro, Nessi, Orlo,
            Pella, Quista, Rodda, Selva, Torra, Ulva, Vanna, Wessa, Yavva, Zella, Askel, Brundel, Cradel, Drimmel,
            Embel, Fossel, Gremmel, Hummel, Istrel, Jondel, Kistel, Lammel, Moffel, Nandel, Ostrel, Prindel, Quarrel,
            Rastel, Scondel, Tressel, Umbrel, Vostel, Wendel, Yestel, Abber, Bolder, Clatter, Denter, Ecker, Flinder,
            Gander, Holver, Ivver, Kolter, Lusker, Mander, Nolter, Ormer, Polder"""
        ),
        tails=_words(
            """wick, holt, mere, stow, garth, haven, mouth, thorpe, brook, field, dale, gate, bury, combe, minster,
            shaw, strand, burgh, hurst, toft, fleet, bridge, cross, fell"""
        ),
        joiner="",
    ),
    "year": Slot(
        heads=_words("186, 187, 188, 189, 190, 191, 192, 193, 194, 195, 196, 197"),
        tails=_words("0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
        joiner="",
    ),
    "trade": Slot(
        heads=_words(
            """a maker of, a restorer of, a designer of, an engraver of, a collector of, a seller of, a painter of,
            an inspector of, a repairer of, a keeper of, a polisher of, a tester of, an importer of, a builder of,
            a decorator of, a valuer of, a dealer in, an expert on, a cleaner of, a photographer of"""
        ),
        tails=_words(
            """tide clocks, glass flutes, brass lanterns, puppet theatres, weather vanes, music boxes, porcelain stoves,
            paper kites, cuckoo clocks, carved canoes, sundials, chess sets, rocking horses, snow globes, ship models,
            roof tiles, copper kettles, pocket maps, garden fountains, wooden masks, door knockers, ink wells,
            birdcages, fishing reels, barrel organs, opera glasses, riding saddles, silk lampshades, walking sticks,
            iron gates"""
        ),
    ),
    "firm": Slot(
        heads=_words(
            """Brisk, Cobbold, Dapperton, Elkin, Fothergay, Grimble, Haskett, Ingleby, Jupp, Kemble, Lowdell, Mudge,
            Nunnery, Oakapple, Pratchard, Quibell, Rumbold, Scrivens, Tuttle, Underhay, Vellacombe, Whipple, Yaxley,
            Zeal"""
        ),
        tails=_words(
            """Amberly, Bootle, Crane, Dimmock, Eversholt, Flack, Gaunt, Hobday, Imber, Jessop, Knapp, Lovage, Marl,
            Nettle, Orchard, Plum, Quayle, Rook, Spindle, Thrale, Upjohn, Vane, Wragg, Yeo"""
        ),
        joiner=" and ",
    ),
    "title": Slot(
        heads=_words(
            """The Orchard of, A Ladder for, A Winter among, Seven Letters to, The Last of, A Lantern for,
            The Kingdom of, In Praise of, The Secret of, A Garden without, Nine Nights with, The House of,
            Farewell to, A Map of, The Trial of, A Song for, The Return of, Under the, The Price of, A Year of,
            Waiting for, The Weight of, Beyond the, The School of"""
        ),
        tails=_words(
            """Borrowed Bells, Sleeping Herons, Broken Mirrors, Paper Ships, Salted Roses, Hollow Mountains,
            Silent Clocks, Wandering Kings, Blue Candles, Frozen Harbours, Bitter Oranges, Forgotten Stairs,
            Glass Horses, Iron Swallows, Crooked Chimneys, Painted Foxes, Yellow Umbrellas, Drowned Villages,
            Velvet Wolves, Distant Drums, Copper Leaves, Hungry Ghosts, White Ravens, Burning Barges"""
        ),
    ),
    "topic": Slot(
        heads=_words(
            """winter, summer, autumn, village, island, harbour, mountain, valley, northern, southern, eastern,
            western, medieval, seaside, riverside, country, coastal, forest, hillside, lakeside, moorland, ancient,
            city, royal"""
        ),
        tails=_words(
            """ferries, bridges, markets, weddings, songs, gardens, weather, kitchens, games, roads, fairs, proverbs,
            funerals, dances, taverns, schools, legends, wells, costumes, recipes, superstitions, festivals, riddles,
            architecture"""
        ),
    ),
    "mentor": Slot(
        heads=_words(
            """Abelard, Bettany, Cosmo, Dulcie, Ephraim, Floris, Gideon, Hester, Ignace, Jocasta, Kasimir, Leocadia,
            Mordecai, Nerissa, Octavian, Philippa, Quintus, Rosamund, Silvan, Tabitha, Ursel, Valentin, Winifred,
            Xanthe"""
        ),
        tails=_words(
            """Tolvane, Breckwith, Cressador, Dallimond, Erskalot, Fellowmere, Gantrell, Hollistow, Immersand, Jendrick,
            Korvalis, Lanceworth, Mirrabeck, Norquill, Ollimont, Pomfroy, Quarrenden, Rossiland, Swithenby, Trevandor,
            Ulvercask, Vennacort, Wolfarrow, Yelverlow"""
        ),
    ),
    "award": Slot(
        heads=_words(
            """Silver, Copper, Golden, Crystal, Amber, Ivory, Scarlet, Emerald, Bronze, Marble, Velvet, Crimson, Pearl,
            Sapphire, Granite, Ebony, Cobalt, Coral, Walnut, Platinum, Ruby, Jade, Flint, Saffron"""
        ),
        tails=_words(
            """Heron Medal, Thistle Prize, Anchor Cross, Compass Ribbon, Oak Wreath, Falcon Cup, Quill Medal,
            Lion Prize, Beacon Star, Harp Trophy, Bee Medal, Key Award, Swan Cup, Hammer Prize, Rose Medal, Stag Shield,
            Comet Award, Bell Trophy, Otter Prize, Wheel Medal, Crown Ribbon, Plough Shield, Salmon Cup, Tower Star"""
        ),
    ),
    "body": Slot(
        heads=_words(
            """Guild of, Society of, Academy of, League of, Union of, Council of, Institute of, Fellowship of,
            Federation of, Company of, Order of, Circle of"""
        ),
        tails=_words(
            """Lamp Painters, Bridge Builders, Night Sailors, Rope Makers, Field Botanists, Stone Carvers, Beekeepers,
            Letter Writers, Mountain Guides, Glass Blowers, Town Criers, River Pilots, Hat Makers, Stargazers,
            Wood Turners, Ballad Singers, Market Gardeners, Pearl Divers, Basket Weavers, Master Bakers, Tea Tasters,
            Bookbinders, Sheep Farmers, Locksmiths, Kite Flyers, Village Doctors, Pipe Makers, Wine Growers,
            Salt Merchants, Clock Winders"""
        ),
    ),
    "street": Slot(
        heads=_words(
            """Pewter, Candle, Juniper, Halfmoon, Tanner, Gooseberry, Magpie, Barley, Chandler, Lavender, Pigeon,
            Vinegar, Windmill, Cooper, Hazelnut, Ferryman, Bramble, Turnpike, Mulberry, Swallow, Miller,
            Rosemary, Pilgrim, Thatcher, Otter, Saddler, Damson, Kiln, Primrose, Needle, Quarry, Weaver"""
        ),
        tails=_words("Lane, Street, Row, Hill, Square, Road, Terrace, Alley, Crescent, Walk"),
    ),
    "animal": Slot(
        heads=_words(
            """a one-eyed, an elderly, a timid, a greedy, a plump, a sleepy, a noisy, a tame, a stubborn, a clever,
            a tiny, an enormous, a grumpy, a playful, a black, a white, a shaggy, a clumsy, a gentle, a lazy"""
        ),
        tails=_words(
            """tortoise, parrot, hedgehog, goat, badger, owl, donkey, raven, ferret, rabbit, goose, otter, fox,
            squirrel, pony, peacock, magpie, lizard, hamster, turkey, lamb, spaniel, greyhound, poodle"""
        ),
    ),
    "pet": Slot(
        heads=_words("Captain, Old, Little, Mister, Lady, Doctor, Saint, Professor, Uncle, Sir, Madam, Colonel"),
        tails=_words(
            """Thimble, Marzipan, Pepper, Button, Crumpet, Walnut, Biscuit, Nutmeg, Whiskers, Pickle, Bramble, Dumpling,
            Trumpet, Mustard, Bobbin, Parsley, Tinder, Muffin, Velvet, Snowdrop, Cinder, Pumpkin, Twig, Barnaby,
            Turnip, Feather, Magnus, Rhubarb, Puddle, Socks"""
        ),
    ),
    "instrument": Slot(
        heads=_words(
            """the bass, the alto, the tenor, the walnut, the maple, the ebony, the painted, the antique,
            the travelling, the folding, the silver, the northern, the small, the great, the pearwood, the steel,
            the miniature, the mountain, the soprano, the carved"""
        ),
        tails=_words(
            """lute, harp, fiddle, flute, clarinet, drum, zither, dulcimer, mandolin, bagpipe, trumpet, oboe, cello,
            accordion, bassoon, guitar, whistle, banjo, horn, viola, concertina, recorder, xylophone, cornet"""
        ),
    ),
    "ensemble": Slot(
        heads=_words(
            """Copper Lantern, Morning Star, Harbour Light, Blue Door, Seven Oaks, Lost Glove, Red Barn, Long Meadow,
            Stone Bridge, Winter Garden, Corner House, Old Mill, Moonlit Lake, Green Parrot, Broken Wheel,
            Market Hall, White Stag, Rainy Day, Tall Ship, Second Avenue, Iron Kettle, Sleepy Hollow, Crown Court,
            Paper Crane, East Pier, Velvet Coat, Hidden Valley, Wild Goose, Lamplight, Cherry Orchard"""
        ),
        tails=_words("Quartet, Trio, Band, Orchestra, Players, Sextet, Ensemble, Quintet, Consort, Octet"),
    ),
}

KINDS: tuple[Kind, ...] = (
    Kind(
        name="birth",
        slots={"place": "place", "year": "year"},
        questions=(
            "In which town was {name} born, and in what year was that?",
            "When and where was {name} born, according to the parish register?",
            "Can you tell me the birthplace of {name} and the year of birth?",
            "What is known about where and when {name} was born?",
            "Which town does {name} come from, and in which year was {they} born?",
            "Could you name the town and the year in which {name} was born?",
        ),
        answers=(
            "{name} was born in the town of {place} in the year {year}.",
            "{They} came into the world in {year}, in a town called {place}.",
            "According to the parish register, {last} was born at {place} in {year}.",
            "{name} was a native of {place} and was born there in {year}.",
            "It was in {year} that {name} was born, in the town of {place}.",
            "The town of {place} is where {last} was born, back in {year}.",
        ),
    ),
    Kind(
        name="trade",
        slots={"trade": "trade", "firm": "firm"},
        questions=(
            "What did {name} do for a living, and for which firm?",
            "Which trade did {name} follow, and who was the employer?",
            "What was the profession of {name}, and which company paid the wages?",
            "How did {name} earn a living, and at which firm?",
            "What kind of work did {name} do, and which company was it for?",
            "Could you say what job {name} held, and at which firm?",
        ),
        answers=(
            "{name} worked as {trade} for the firm of {firm}.",
            "{They} earned a living as {trade}, employed by {firm}.",
            "By trade {last} was {trade}, on the payroll of {firm}.",
            "The company of {firm} employed {name} as {trade}.",
            "{last} had a post at {firm} as {trade}.",
            "{name} was {trade} and drew a salary from {firm}.",
        ),
    ),
    Kind(
        name="book",
        slots={"title": "title", "topic": "topic"},
        questions=(
            "What book is {name} best known for, and what is it about?",
            "Which famous book did {name} write, and what does it deal with?",
            "What is the title of the book by {name}, and its subject?",
            "Can you name the main book by {name} and say what it covers?",
            "Which book made {name} famous, and on what subject was it?",
            "What did {name} write a book about, and what is it called?",
        ),
        answers=(
            "{name} is best known for {title}, a book about {topic}.",
            "{They} wrote {title}, a well-known book on the subject of {topic}.",
            "The best-known book by {last} deals with {topic} and is called {title}.",
            "{last} became famous with a book on {topic}, entitled {title}.",
            "What made {name} famous was a book dealing with {topic}, {title}.",
            "{Their} famous book about {topic} bears the title {title}.",
        ),
    ),
    Kind(
        name="mentor",
        slots={"mentor": "mentor", "place": "place"},
        questions=(
            "Who was the teacher of {name}, and where were the lessons held?",
            "Under whom did {name} study, and in which town was that?",
            "Which mentor trained {name}, and in what town did the training happen?",
            "From whom did {name} take lessons, and in which town?",
            "Who taught {name} in early life, and where did the teaching happen?",
            "Can you name the mentor of {name} and the town of study?",
        ),
        answers=(
            "{name} studied under {mentor} in the town of {place}.",
            "{Their} teacher was {mentor}, who gave the lessons in {place}.",
            "The person who taught {last} was {mentor}, in lessons held at {place}.",
            "{last} learned from {mentor} during a stay in {place}.",
            "In {place} {name} was taken on as a pupil by {mentor}.",
            "{They} went to {place} in order to be trained by {mentor}.",
        ),
    ),
    Kind(
        name="award",
        slots={"award": "award", "body": "body"},
        questions=(
            "Which award did {name} receive, and which body presented it?",
            "What prize was given to {name}, and who awarded it?",
            "What honour did {name} win, and from which body did it come?",
            "Which honour is {name} remembered for, and who bestowed it?",
            "Could you tell me what prize {name} won, and from whom?",
            "Which distinction went to {name}, and what body granted it?",
        ),
        answers=(
            "{name} received the {award} from the {body}.",
            "{They} won the {award}, which was presented by the {body}.",
            "The {body} honoured {last} with the {award}.",
            "{last} held the {award}, an honour given by the {body}.",
            "In recognition of {their} work, the {body} gave {name} the {award}.",
            "The prize that {name} won was the {award} of the {body}.",
        ),
    ),
    Kind(
        name="home",
        slots={"place": "place", "street": "street"},
        questions=(
            "In which town did {name} finally settle, and on which street?",
            "Where did {name} make a home in later life, and on what street?",
            "What were the street and the town where {name} settled down?",
            "Which town did {name} move to for good, and to which street?",
            "Where was the last home of {name}, by street and by town?",
            "Can you say where {name} settled, naming both street and town?",
        ),
        answers=(
            "{name} finally settled in {place}, in a house on {street}.",
            "{They} made a home for good on {street} in {place}.",
            "In later life {last} lived on {street} in the town of {place}.",
            "The last home of {name} stood on {street} in {place}.",
            "{last} moved for good to {place}, to an address on {street}.",
            "It was in {place} that {name} finally settled, on {street}.",
        ),
    ),
    Kind(
        name="pet",
        slots={"animal": "animal", "pet": "pet"},
        questions=(
            "What animal did {name} keep at home, and what was its name?",
            "Which pet lived with {name}, and what was it called?",
            "What kind of pet did {name} have, and how was it named?",
            "Can you tell me which pet {name} kept, and its name?",
            "Which animal shared a house with {name}, and what was it called?",
            "What creature kept {name} company, and by what name did it go?",
        ),
        answers=(
            "{name} kept {animal} that went by the name of {pet}.",
            "{They} shared {their} home with {animal} called {pet}.",
            "The pet of the house was {animal}, and {last} named it {pet}.",
            "{last} had {animal} for company, and its name was {pet}.",
            "{pet} was the name that {last} gave to {their} pet, {animal}.",
            "At home {name} looked after {animal} known as {pet}.",
        ),
    ),
    Kind(
        name="music",
        slots={"instrument": "instrument", "ensemble": "ensemble"},
        questions=(
            "Which instrument did {name} play, and in which ensemble was that?",
            "What did {name} play, and which musical group was it with?",
            "In which group did {name} perform, and on what musical instrument?",
            "What instrument is linked with {name}, and what was the ensemble called?",
            "Could you tell me what instrument {name} played, and with which ensemble?",
            "Which musical group included {name}, and on which instrument?",
        ),
        answers=(
            "{name} was a musician who played {instrument} in the {ensemble}.",
            "{They} performed on {instrument} as a member of the {ensemble}.",
            "In the {ensemble} it was {last} who played {instrument}.",
            "{last} was a player of {instrument} and belonged to the {ensemble}.",
            "{Their} instrument was {instrument}, and {their} group was the {ensemble}.",
            "As a member of the {ensemble}, {name} played {instrument}.",
        ),
    ),
)
