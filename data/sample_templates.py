"""The words of the sample: names, number formats and sentence templates of the sixteen kinds of event.

Every line here was written for this project, and people, towns and companies are invented.

Template language (read by ``make_sample.py``):

* ``[a|b|c]`` picks one of the alternatives (no nesting);
* ``{type}`` or ``{type_label}`` is a slot. The part before the underscore names what is drawn (``person``,
  ``town``, ``money``: the ``SLOTS`` of make_sample.py, or a word list in ``Kind.words``). The same slot has
  the same value all through one article; a ``person`` is written in full at the first mention and by surname
  later.

A kind of event is told in ``points``. Each point pairs the article sentences that carry its facts with the
sentence that sums them up in the highlights. The slots of a highlight sentence are its facts.
"""

from typing import NamedTuple

Wordings = list[str]


class Point(NamedTuple):
    """Something the article reports and the highlights repeat."""

    article: list[Wordings]
    highlight: Wordings
    optional: bool = False


class Kind(NamedTuple):
    """One kind of event: how it opens, what it reports, and what surrounds the report."""

    name: str
    lead: Wordings
    points: list[Point]
    follow: list[Wordings]  # come back to people, places and numbers that were introduced before
    aside: list[Wordings]  # distractors: other people, places and numbers of the same types
    words: dict[str, list[str]] = {}


FIRST_NAMES = """
Aaron Ada Adrian Aidan Albert Alma Amelia Andrea Anna Arthur Audrey Barbara Ben Bertha Boris Brian Calvin
Carl Caroline Celia Clara Clement Conrad Cyrus Damian Daphne David Delia Diana Donald Doris Edgar Edwin
Eleanor Eli Elsa Emma Erica Eugene Evan Felix Flora Freda George Gilbert Gordon Greta Hannah Harriet Hazel
Hector Helen Herman Howard Ian Igor Irene Isaac Ivy Jane Jean Jerome Joel Jonas Joyce Julian Karen Kate
Kevin Lara Laurence Leila Leonard Linda Lois Louise Lucy Lydia Magda Margaret Marina Martha Matilda Max
Mercy Mila Miriam Mona Morris Nadia Nathan Nell Nina Nora Olga Olive Otto Pamela Paul Pearl Peter Philip
Polly Ralph Raymond Reuben Rita Roger Rosa Rufus Sabine Samuel Sarah Selma Silas Sofia Stella Sylvia Teresa
Theo Tina Una Vera Vincent Walter Wendy Winston Yvonne Zoe
""".split()

SURNAMES = """
Abbott Adler Aldous Amado Archer Aston Attwood Bains Banner Barlow Basset Becker Bellamy Berger Blackwood
Bolton Bowen Bracken Brandt Brook Calder Camden Carver Chandra Chester Cobb Cooper Corbin Craven Curtis
Dalton Darrow Denholm Devlin Dolan Drummond Dunbar Eastman Egan Eklund Emerson Estrada Fallon Fenton Finch
Fisher Forsyth Fowler Frayne Gale Gibbs Gilmore Goddard Grady Granger Griffin Gupta Hadley Hamlin Hartley
Hassan Hawkins Hendry Hewitt Hobbs Horner Hoxton Huxley Inglis Irving Jarvis Joshi Kapoor Keller Kerr Kimura
Klein Kovac Kramer Laird Landry Langley Lawson Lennox Leroy Lister Lombard Lowell Lynch Malik Mallory
Marsden Maxwell Mercer Milburn Monroe Moran Mosby Myers Nadler Navarro Newell Nolan Novak Ochoa Odell Olsen
Osborne Otter Palmer Patel Paxton Pelham Pike Pinder Porter Quigley Quinn Ramsey Redmond Reeves Rhodes
Rivera Robson Rooney Rowland Rudd Sadler Sander Savage Saxon Sellers Serrano Shah Shelby Silva Skelton
Snyder Soto Stafford Stark Steiner Strand Swift Talbot Tate Thorne Tilden Torres Travers Trent Turnbull
Underhill Upton Varga Vickers Vogel Walden Walsh Warwick Weaver Weller Wexler Wickham Winslow Wolfe Wyatt
York Zeller
""".split()

TOWN_STARTS = """
Al Ash Bar Bel Ber Bram Bren Bur Cal Cam Car Cor Cran Dal Dar Del Dor Dun El Fal Far Fen Gal Gar Glen Gor
Hal Har Hel Hol Kel Ken Kil Kor Lan Lar Len Lor Mal Mar Mel Mer Mil Mor Nal Nor Oak Or Pel Pen Por Quar Ral
Ren Ros Sal Sel Sil Sor Stan Tal Tar Thorn Tor Ul Val Ver Wal War Wel Wil Win Yar Zel
""".split()
TOWN_MIDDLES = ["", "", "", "a", "e", "i", "o", "der", "en", "ing", "is", "ler", "min", "ner", "ver"]
TOWN_ENDS = """
borough bridge bury by combe dale den field ford gate ham haven holm hurst ley mere mont more mouth port
shaw stead stoke stow ton vale view ville wick wold worth
""".split()

COMPANY_STARTS = """
Acti Alto Ambra Apex Arc Astra Beta Boreal Brio Calyx Cento Cirrus Civi Cobal Corta Delta Domi Echo Elmo
Ento Ferro Fluxa Fonta Gala Gene Hali Helio Indi Ionic Kala Kine Lexa Lumi Luna Magna Mari Meri Miro Nexa
Nimbo Nova Octa Omni Opti Orbi Palla Penta Poly Prima Quanta Rivo Sana Sola Strato Syn Tecto Terra Tri Umbra
Veri Vita Volta Xeno Zeni
""".split()
COMPANY_MIDDLES = "bel cor dan dex fin gen lex lin mar nex pol ren tek trix ven vex vin wen zon".split()
COMPANY_ENDS = "Group Partners Holdings Industries Brothers Works Trading Products International".split()

ROAD_STARTS = """
Abbey Alder Bishop Bridge Canal Castle Cedar Chapel Church College Copper Dock Elm Factory Forest Garden
Harbour High Hill King Lake Library Lime Linden Market Meadow Mill Museum North Orchard Park Pine Queen
Quarry River School South Spring Station Stone Temple Tower Union Victoria Water West Willow Wood
""".split()
ROAD_ENDS = ["Street", "Road", "Lane", "Avenue", "Square"]

MONTHS = "January February March April May June July August September October November December".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
NUMBER_WORDS = "two three four five six seven eight nine".split()

# Distractors that fit any report.
ANYWHERE = [
    [
        "{person_x1}, who [runs|owns] a [bakery|bookshop|cafe|pharmacy] in {town_x1}, said [people were "
        "talking of "
        "nothing else|customers had asked about it all day].",
        "[Asked about it|Speaking] outside a [bakery|bookshop|cafe|pharmacy] in {town_x1}, {person_x1} said "
        "it was [a "
        "surprise|no surprise] to [anyone|people] there.",
    ],
    [
        "[Last|The previous] {month_x} the [region|county] had been in the news for [quite another reason|a "
        "dispute over "
        "parking|a record harvest].",
        "The [region|county] was last in the news in {month_x}, [over a dispute about parking|after a record harvest].",
    ],
    [
        "[A phone line|A help line] for [questions|residents] [took|received] {hundreds_x} calls [by noon|in one day].",
        "[By noon|In one day] {hundreds_x} [calls|messages] had [reached|come in to] the [town hall|local "
        "radio station].",
    ],
    [
        "Local historian {person_x2} said [nothing like it|nothing of the kind] had [happened|been seen] "
        "there since "
        "{year_x}.",
        "[Nothing like it|Nothing of the kind] had [happened|been seen] since {year_x}, according to historian "
        "{person_x2}.",
    ],
    [
        "The weather [stayed|was] [dry|cold|mild|windy], with [temperatures|readings] near {dozens_x} degrees "
        "in {town_x2}.",
        "It was [a dry|a cold|a mild|a windy] day in {town_x2}, with [temperatures|readings] near {dozens_x} degrees.",
    ],
    [
        "[Reporters|Journalists] from {few_x} [newspapers|stations] [waited|gathered] [outside|near the entrance].",
        "{few_x} [camera crews|photographers] [waited|stood] [outside|near the entrance] for most of the day.",
    ],
    [
        "A [spokesman|spokeswoman] for {company_x} [declined to comment|did not return calls].",
        "{company_x}, which has offices nearby, [declined to comment|did not answer questions].",
    ],
    [
        "In {town_x3}, a similar [matter|question] [took|had taken] {few_x2} years to [settle|resolve].",
        "[It|A similar matter] took {few_x2} years to [settle|resolve] in {town_x3}.",
    ],
    [
        "A meeting for [residents|the public] will be held at the [library|town hall|school] on {date_x}.",
        "[Residents|The public] can [ask questions|learn more] at the [library|town hall|school] on {date_x}.",
    ],
    [
        "{person_x3}, {age_x}, [watched|followed] the news with [friends|neighbours|colleagues].",
        '"[I could not believe it|I am still thinking about it|We will see]," said {person_x3}, {age_x}.',
    ],
]

KINDS = [
    Kind(
        "fire",
        lead=[
            "[Firefighters|Fire crews] [worked through the night|spent hours at the scene] after a "
            "[large|major] "
            "[fire|blaze] in {town}.",
            "A [large|major] [fire|blaze] [sent|threw] [thick smoke|black smoke] over {town} "
            "[overnight|late on {day}].",
        ],
        points=[
            Point(
                [
                    [
                        "The flames [started|broke out] in a {building} on {road} [shortly after "
                        "midnight|before dawn].",
                        "[Officials|Witnesses] said a {building} on {road} was [the first to burn|where it began].",
                    ]
                ],
                [
                    "A fire [destroyed|gutted] a {building} in {town}.",
                    "A {building} in {town} was [destroyed|gutted] by fire.",
                ],
            ),
            Point(
                [
                    [
                        "[Doctors|Medics] treated {dozens} people for [burns|smoke inhalation] at the local hospital.",
                        "In all {dozens} people were taken to hospital with [burns|breathing problems].",
                    ]
                ],
                ["{dozens} people were [hurt|injured].", "It left {dozens} people [hurt|injured]."],
            ),
            Point(
                [
                    [
                        "Fire chief {person} [blamed|pointed to] {cause} [for the disaster|as the likely cause].",
                        "According to fire chief {person}, {cause} [probably|most likely] [set it off|was to blame].",
                    ]
                ],
                ["Fire chief {person} [blamed|blames] {cause}.", "The cause was {cause}, fire chief {person} said."],
            ),
            Point(
                [
                    [
                        "Insurers put the [damage|loss] at {money}, [far more than first feared|not counting "
                        "the stock].",
                        "The [damage|loss] was [estimated|valued] at {money} by insurers.",
                    ]
                ],
                ["Damage is [put|estimated] at {money}.", "The damage came to {money}."],
                True,
            ),
        ],
        follow=[
            [
                "{person} [thanked|praised] the crews and said the [ruins|walls] on {road} were [still hot|not safe].",
                '"[Stay away from {road}|Keep clear of {road}]," {person} [said|warned].',
            ],
            [
                "Of the {dozens} [injured|patients], most [went home|were released] [the same day|by evening].",
                "Most of the {dozens} [injured|patients] [went home|were released] within hours.",
            ],
            [
                "[People|Neighbours] in {town} [brought|collected] [blankets|food and clothes] for the families.",
                "[Schools|Shops] in {town} [stayed closed|did not open] because of the smoke.",
            ],
        ],
        aside=[
            [
                "A fire in {town_b} in {year_b} had [hurt|injured] {dozens_b} people and cost {money_b}.",
                "In {year_b} a blaze in {town_b} [injured|hurt] {dozens_b} people.",
            ],
            [
                "{person_b}, who lives on {road_b}, [saw|noticed] the [glow|flames] from the kitchen.",
                "[From {road_b}|From a window on {road_b}] {person_b} [saw|watched] the [glow|flames].",
            ],
            [
                "{dozens_c} [engines|vehicles] came, some [from|all the way from] {town_c}.",
                "[Engines|Crews] [from|based in] {town_c} joined in, {dozens_c} vehicles in all.",
            ],
        ],
        words={
            "building": [
                "furniture store",
                "paper mill",
                "hotel",
                "warehouse",
                "theatre",
                "bakery",
                "school",
                "shopping centre",
                "timber yard",
                "night club",
                "nursing home",
                "car park",
            ],
            "cause": [
                "faulty wiring",
                "a gas leak",
                "a fallen candle",
                "fireworks",
                "a broken heater",
                "an overheated oven",
                "a cigarette",
                "old machinery",
            ],
        },
    ),
    Kind(
        "flood",
        lead=[
            "[Heavy|Days of] rain [brought|caused] [serious|widespread] flooding [across the region|in the valley].",
            "[Rescuers|Soldiers] used boats [to reach families|on the streets] [on {day}|this week] as "
            "[rivers|waters] "
            "[rose|kept rising].",
        ],
        points=[
            Point(
                [
                    [
                        "The [worst of it|heaviest damage] was in {town}, where the {river} River [burst its "
                        "banks|broke "
                        "through the dam].",
                        "In {town} the {river} River [burst its banks|ran over the flood wall] [at dawn|overnight].",
                    ]
                ],
                ["The {river} River flooded {town}.", "Flood water from the {river} River hit {town}."],
            ),
            Point(
                [
                    [
                        "Some {thousands} [residents|people] had to leave their homes [in a hurry|at short notice].",
                        "[Police|Officials] moved {thousands} [residents|people] to [schools|sports halls].",
                    ]
                ],
                ["{thousands} people were [moved|evacuated].", "{thousands} people had to leave their homes."],
            ),
            Point(
                [
                    [
                        "Mayor {person} asked the government for {money} in [emergency aid|relief money].",
                        "The town needs {money} [to rebuild|for repairs], mayor {person} said.",
                    ]
                ],
                ["Mayor {person} asked for {money} in aid.", "{money} is needed, mayor {person} said."],
            ),
            Point(
                [
                    [
                        "[Engineers|Forecasters] expect the water to [fall|go down] by {date}.",
                        "The water should [fall|go down] by {date}, [engineers|forecasters] said.",
                    ]
                ],
                ["The water is expected to fall by {date}.", "Water levels should fall by {date}."],
                True,
            ),
        ],
        follow=[
            [
                "{person} said the {money} would go to [families|farmers|small shops] first.",
                '"[We cannot wait|We need help now]," {person} said of the {money}.',
            ],
            [
                "The {river} [last flooded|was last so high] [a generation ago|many years ago].",
                "[Walkers|Drivers] were told to [avoid|keep away from] the {river} until further notice.",
            ],
            [
                "[Many|Most] of the {thousands} [evacuees|people] [slept|spent the night] with relatives.",
                "[Volunteers|Students] cooked for the {thousands} people [who had left|without a home].",
            ],
            [
                "[Power|Drinking water] in {town} was [cut off|rationed] for [a day|hours].",
                "[Trains|Buses] to {town} [were cancelled|stopped running].",
            ],
        ],
        aside=[
            [
                "In {town_b}, on the {river_b} River, [only|just] {dozens_b} cellars were [flooded|under water].",
                "The {river_b} River at {town_b} [rose too|was high as well], and {dozens_b} cellars were flooded.",
            ],
            [
                "A dam [planned|promised] in {year_b} at a cost of {money_b} was never [built|finished].",
                "[Plans|Promises] of {year_b} for a dam worth {money_b} came to nothing.",
            ],
            [
                "Farmer {person_b} [lost|had to leave behind] {dozens_c} [sheep|cows].",
                "{dozens_c} [sheep|cows] belonging to {person_b} [drowned|were lost].",
            ],
        ],
    ),
    Kind(
        "election",
        lead=[
            "[Voters|Residents] went to the polls [on {day}|this week] [in a closely watched "
            "election|after a bitter "
            "campaign].",
            "The [count|vote] is over [in a race that few could call|after a long and bitter campaign].",
        ],
        points=[
            Point(
                [
                    [
                        "[Officials|The election board] declared {person} [the winner|mayor-elect] [late in the "
                        "evening|before midnight].",
                        "It was {person} who [came out ahead|finished first] when the last box was opened.",
                    ],
                    [
                        "The [city hall|mayor's office] in {town} had been [empty|vacant] since [spring|the summer].",
                        "[Turnout|Interest] in {town} was [high|higher than usual], [officials|clerks] said.",
                    ],
                ],
                [
                    "{person} [won|wins] the [race for mayor|mayoral election] in {town}.",
                    "{person} [was|is] elected mayor of {town}.",
                ],
            ),
            Point(
                [
                    [
                        "The final count gave the winner {majority} of the vote.",
                        "The winner's share [was|came to] {majority} of the vote.",
                    ],
                    [
                        "[Rival|Opponent] {person_rival} [conceded|admitted defeat] [in a short speech|by telephone].",
                        "There were [tears|boos] when [rival|opponent] {person_rival} [conceded|gave up].",
                    ],
                ],
                [
                    "The winner took {majority} of the vote [against|to beat] {person_rival}.",
                    "{person_rival} [was beaten|lost], with {majority} of the vote going to the winner.",
                ],
            ),
            Point(
                [
                    [
                        "The new mayor [promised|has promised] to {pledge} [within a year|as a first step].",
                        "[On the stage|In the hall], the new mayor [promised|vowed] to {pledge}.",
                    ]
                ],
                ["The new mayor [promised|promises] to {pledge}.", "The new mayor has vowed to {pledge}."],
                True,
            ),
        ],
        follow=[
            [
                "{person} [hugged|thanked] [supporters|volunteers] and [went home|left] without taking questions.",
                '"[This is your victory|Tomorrow we start work]," {person} told [the crowd|supporters].',
            ],
            [
                "{person_rival} [wished|wishes] {person} [luck|well] and [will leave politics|ruled out a challenge].",
                "A [spokesman|spokeswoman] for {person_rival} said there would be no [challenge|recount].",
            ],
            [
                "[Shops|Bars] in {town} [stayed open|were full] until [morning|late].",
                "[Few|Some] people in {town} said the result would change [much|their lives].",
            ],
        ],
        aside=[
            [
                "In {year_b} {person_b} had [won|held the seat] with {percent_b} of the vote.",
                "The last mayor, {person_b}, [won|was chosen] in {year_b} with {percent_b}.",
            ],
            [
                "In neighbouring {town_b}, {person_c} [kept the seat|was re-elected].",
                "{person_c} [kept the seat|was re-elected] in neighbouring {town_b}.",
            ],
            [
                "A poll in {month_b} had put {person_d} in the lead with {percent_c}.",
                "{person_d}, who [led|was ahead] with {percent_c} in a poll in {month_b}, [pulled out|came last].",
            ],
            [
                "[Officials|Clerks] [opened|set up] {dozens_b} polling stations.",
                "There were {dozens_b} polling stations, [two of them on boats|some of them in pubs].",
            ],
        ],
        words={
            "pledge": [
                "cut local taxes",
                "repair the roads",
                "build more homes",
                "plant ten thousand trees",
                "reopen the library",
                "hire more teachers",
                "make buses free",
                "clean the river",
                "close the airport",
                "lower rents",
            ]
        },
    ),
    Kind(
        "policy",
        lead=[
            "The {office} announced a new policy on {topic} [on {day}|this week|today].",
            "The {office} [presented|unveiled] a [new|long awaited] policy on {topic} [on {day}|this week|today].",
        ],
        points=[
            Point(
                [
                    [
                        "[Speaking|In a speech] in {town}, {person} called it [a turning point|the start of a "
                        "new era].",
                        "{person} [set out|explained] the plan [in a speech|before an audience] in {town}.",
                    ]
                ],
                [
                    "The {office}, {person}, announced a new policy on {topic}.",
                    "A new policy on {topic} was announced by the {office}, {person}.",
                ],
            ),
            Point(
                [
                    [
                        "The government will [spend|invest] {money} [on the programme|over the coming years].",
                        "[A budget of {money}|A sum of {money}] has been [set aside|approved] for the programme.",
                    ]
                ],
                ["The government will [spend|invest] {money}.", "It will cost {money}."],
            ),
            Point(
                [["The [aim|goal] is to {aim} by {year2}.", "[Officials|Ministers] want to {aim} by {year2}."]],
                ["The [aim|goal] is to {aim} by {year2}.", "The plan is to {aim} by {year2}."],
            ),
            Point(
                [
                    [
                        "Opposition leader {person_rival} [called the plan|spoke of] a {insult}.",
                        "Opposition leader {person_rival} [dismissed|attacked] it as a {insult}.",
                    ]
                ],
                [
                    "Opposition leader {person_rival} [criticised|attacked] the plan.",
                    "The plan was [criticised|attacked] by opposition leader {person_rival}.",
                ],
                True,
            ),
        ],
        follow=[
            [
                "{person} [rejected|brushed aside] the criticism and said the {money} was [well spent|only a start].",
                '"[We owe it to our children|There is no time to lose]," {person} [said|added].',
            ],
            [
                "[Experts|Economists] asked whether {money} would be enough to {aim}.",
                "[Experts|Scientists] doubt that the country can {aim} so soon.",
            ],
            [
                "[Crowds|Supporters] in {town} [cheered|applauded], while a few [booed|protested].",
                "Outside the hall in {town}, [students|farmers] [held up signs|protested].",
            ],
        ],
        aside=[
            [
                "A [programme|law] of {year_b} cost {money_b} and [achieved little|was dropped].",
                "The last [programme|law], in {year_b}, cost {money_b} and was [soon dropped|never finished].",
            ],
            [
                "A survey [found|showed] that {percent_b} of [voters|people] [support|oppose] such a step.",
                "According to a survey, {percent_b} of [voters|people] [support|oppose] such a step.",
            ],
            [
                "{person_b} of the [farmers' union|chamber of commerce] asked for [more time|clear rules].",
                "[More time|A clear timetable] is needed, said {person_b} of the [farmers' union|chamber of commerce].",
            ],
            [
                "Parliament will [debate|vote on] the [bill|measure] on {date_b}.",
                "A [debate|vote] in parliament is [planned|set] for {date_b}.",
            ],
        ],
        words={
            "office": [
                "president",
                "prime minister",
                "environment minister",
                "finance minister",
                "health minister",
                "energy minister",
                "education minister",
                "transport minister",
            ],
            "topic": [
                "climate change",
                "clean energy",
                "air pollution",
                "public health",
                "housing",
                "school meals",
                "farming",
                "water supply",
                "rail travel",
                "pensions",
                "recycling",
                "forests",
            ],
            "aim": [
                "cut emissions by half",
                "close all coal plants",
                "build a million homes",
                "double the number of nurses",
                "plant new forests",
                "end plastic waste",
                "make trains cheaper",
                "halve energy use",
                "protect the coast",
                "train more teachers",
            ],
            "insult": [
                "waste of money",
                "empty promise",
                "gift to big business",
                "tax by another name",
                "missed chance",
                "publicity stunt",
            ],
        },
    ),
    Kind(
        "merger",
        lead=[
            "[Shares rose|Markets reacted] [sharply|at once] after [news of a takeover|a takeover deal] "
            "[on {day}|this "
            "week].",
            "[Months|Weeks] of [talks|rumours] ended [on {day}|this week] with a takeover [deal|agreement].",
        ],
        points=[
            Point(
                [
                    [
                        "The buyer is {company}, which [makes|sells] {goods}.",
                        "{company}, a [large|leading] maker of {goods}, [made the offer|is the buyer].",
                    ],
                    [
                        "[Shareholders|Directors] of {company_sold} [accepted|agreed to] the offer.",
                        "The smaller firm, {company_sold}, [had been losing money|was short of cash].",
                    ],
                ],
                [
                    "{company} [will buy|is buying|agreed to buy] {company_sold}.",
                    "{company_sold} will be [bought|taken over] by {company}.",
                ],
            ),
            Point(
                [
                    [
                        "The price was [set|fixed] at {money}, [to be paid in cash|half of it in shares].",
                        "It will pay {money} [in cash|in shares].",
                    ]
                ],
                ["The deal is [worth|valued at] {money}.", "The price is {money}."],
            ),
            Point(
                [
                    [
                        "Chief executive {person} said the [new group|combined firm] would [keep|have] its "
                        "[head office|main "
                        "office] in {town}.",
                        "The [head office|main office] will be in {town}, chief executive {person} said.",
                    ]
                ],
                [
                    "The head office will be in {town}, chief executive {person} said.",
                    "Chief executive {person} said the head office will be in {town}.",
                ],
            ),
            Point(
                [
                    [
                        "About {hundreds} [jobs|posts] will [go|be cut], [most of them in offices|mainly in sales].",
                        "[Unions|Staff] were told that {hundreds} [jobs|posts] will [go|be cut].",
                    ]
                ],
                ["{hundreds} jobs will be cut.", "It will cost {hundreds} jobs."],
                True,
            ),
        ],
        follow=[
            [
                "{person} called {company_sold} [a perfect fit|a jewel] and [promised|expects] [quick|steady] growth.",
                '"[Together we are stronger|This makes sense for all of us]," said {person}.',
            ],
            [
                "[Analysts|Brokers] said {money} was [a high|a fair] price for {company_sold}.",
                "[Some|Few] investors thought {company} was paying too much at {money}.",
            ],
            [
                "[Staff|Workers] at {company_sold} [learned the news|were told] by e-mail.",
                "[Shares in {company}|{company} shares] [fell|rose] [slightly|a little] by the close.",
            ],
        ],
        aside=[
            [
                "{company_b} had offered {money_b} in {month_b} [but withdrew|and was turned down].",
                "A bid of {money_b} by {company_b} [failed|was turned down] in {month_b}.",
            ],
            [
                "Analyst {person_b} of {company_c} expects [more deals|other takeovers] this year.",
                "[More deals will follow|Others will follow], said analyst {person_b} of {company_c}.",
            ],
            [
                "The [industry|sector] employs {thousands_b} people, many of them in {town_b}.",
                "{thousands_b} people work in the [industry|sector], many of them in {town_b}.",
            ],
        ],
        words={
            "goods": [
                "car parts",
                "frozen food",
                "medical devices",
                "shoes",
                "batteries",
                "farm machines",
                "computer chips",
                "kitchen tools",
                "paint",
                "bicycles",
                "glass",
                "toys",
            ]
        },
    ),
    Kind(
        "factory",
        lead=[
            "There was [good|welcome] news for [job seekers|the local economy] [on {day}|this week].",
            "[Local leaders|Officials] [cut a ribbon|raised their glasses] [on {day}|this week] [to mark "
            "a new "
            "beginning|after years of decline].",
        ],
        points=[
            Point(
                [
                    [
                        "{company} [chose|picked] the site [after a long search|from a list of ten].",
                        "[Behind the project|The investor] is {company}, [a family firm|one of the fastest "
                        "growing firms].",
                    ],
                    [
                        "The town of {town} [is to get|will have] a {goods} factory.",
                        "[Work|Building] on the {goods} factory in {town} has [begun|started].",
                    ],
                ],
                [
                    "{company} [will open|opens|is opening] a {goods} plant in {town}.",
                    "A {goods} plant in {town} [will be opened|is planned] by {company}.",
                ],
            ),
            Point(
                [
                    [
                        "It will [employ|need] {hundreds} people [when it is complete|at first].",
                        "[Some|About] {hundreds} people will [find work|be hired] there.",
                    ]
                ],
                ["It will [create|bring] {hundreds} jobs.", "{hundreds} jobs will be created."],
            ),
            Point(
                [
                    [
                        "The [firm|company] is [spending|investing] {money} [of its own|with help from banks].",
                        "[Building|Fitting out] the halls will cost {money}.",
                    ]
                ],
                ["The [firm|company] is investing {money}.", "The investment is {money}."],
            ),
            Point(
                [
                    [
                        "[Production|Work] [starts|begins] on {date}, plant manager {person} said.",
                        "Plant manager {person} expects to [start|begin] [production|work] on {date}.",
                    ]
                ],
                [
                    "[Work|Production] starts on {date}, plant manager {person} said.",
                    "Plant manager {person} said [work|production] starts on {date}.",
                ],
                True,
            ),
        ],
        follow=[
            [
                "[Applications|Letters] for the {hundreds} [jobs|places] [are already coming in|fill several boxes].",
                "[Training|Courses] for the {hundreds} [workers|people] will [be free|take a month].",
            ],
            [
                "{company} [paid nothing|paid little] for the land [it will build on|near the railway].",
                "[Neighbours|Farmers] asked {company} about [noise|traffic] and were given [promises|answers].",
            ],
            [
                "[Rents|House prices] in {town} are [already rising|expected to rise].",
                "[Young people|Families] had been leaving {town} for years.",
            ],
        ],
        aside=[
            [
                "{company_b} closed its plant in {town_b} in {year_b}, and {hundreds_b} people lost their jobs.",
                "In {year_b} {hundreds_b} jobs were lost when {company_b} left {town_b}.",
            ],
            [
                "{person_b}, a [welder|driver|mechanic] of {age_b}, hopes to [apply|find a place].",
                "[Welder|Driver|Mechanic] {person_b}, {age_b}, [has been out of work|was laid off] [for "
                "months|last year].",
            ],
            [
                "The state gave {money_b} in tax breaks, said {person_c} of the [planning office|ministry].",
                "Tax breaks worth {money_b} were [granted|needed], said {person_c} of the [planning office|ministry].",
            ],
        ],
        words={
            "goods": [
                "battery",
                "bicycle",
                "chocolate",
                "furniture",
                "solar panel",
                "toy",
                "tractor",
                "medicine",
                "glass",
                "carpet",
                "engine",
                "cheese",
            ]
        },
    ),
    Kind(
        "trial",
        lead=[
            "A [trial|case] that [shocked|divided] the [country|public] ended [on {day}|this week].",
            "There was [silence|applause] in the courtroom [on {day}|this week] when the [verdict|sentence] was read.",
        ],
        points=[
            Point(
                [
                    [
                        "The [accused|defendant], {person}, [showed no emotion|looked at the floor].",
                        "[Guards|Officers] led {person} away [in handcuffs|through a side door].",
                    ],
                    [
                        "[Jurors|The jury] found the former {job} guilty of {crime}.",
                        "The charge against the former {job} was {crime}.",
                    ],
                ],
                [
                    "{person}, a former {job}, was [convicted|found guilty] of {crime}.",
                    "Former {job} {person} was [convicted|found guilty] of {crime}.",
                ],
            ),
            Point(
                [
                    [
                        "Judge {person_judge} [imposed|handed down] a sentence of {few} years.",
                        "The sentence is {few} years in prison, judge {person_judge} said.",
                    ]
                ],
                [
                    "Judge {person_judge} [set|imposed] a [prison term|sentence] of {few} years.",
                    "The sentence was {few} years, [set|imposed] by judge {person_judge}.",
                ],
            ),
            Point(
                [
                    [
                        "[Prosecutors|Investigators] said {sum} had [disappeared|been taken] from {company}.",
                        "The [court|jury] heard that {company} [lost|was robbed of] {sum}.",
                    ]
                ],
                ["{company} lost {sum}.", "The loss to {company} was {sum}."],
                True,
            ),
            Point(
                [
                    [
                        "An appeal will be heard on {date}.",
                        "The [defence|lawyers] will appeal, with a hearing on {date}.",
                    ]
                ],
                ["An appeal [is set|will be heard] on {date}.", "The appeal is set for {date}."],
                True,
            ),
        ],
        follow=[
            [
                "{person_judge} [spoke of|called it] a [grave|cruel] breach of trust.",
                '"[You betrayed those who trusted you|There is no excuse for this]," {person_judge} [said|added].',
            ],
            [
                "[Friends|Relatives] of {person} [wept|left without a word].",
                "A lawyer for {person} called the {few} years [too harsh|unjust].",
            ],
            [
                "[Neighbours|Colleagues] remembered {person} as [quiet|a kind {job}].",
                "{person} had worked as a {job} [for half a lifetime|since leaving school].",
            ],
        ],
        aside=[
            [
                "In {year_b} {person_b} was [cleared|acquitted] of a similar charge in {town_b}.",
                "A court in {town_b} [cleared|acquitted] {person_b} of a similar charge in {year_b}.",
            ],
            [
                "Witness {person_c} [spoke|testified] for {few_b} hours [behind a screen|without a break].",
                "For {few_b} hours the court [listened to|questioned] witness {person_c}.",
            ],
            [
                "The police had [searched|watched] {dozens_b} [homes|flats] and {company_b}.",
                "{dozens_b} [witnesses|experts] were heard, among them staff of {company_b}.",
            ],
            [
                "The trial began on {date_b} and was [twice delayed|moved to a larger room].",
                "It had [started|opened] on {date_b} before a full gallery.",
            ],
        ],
        words={
            "job": [
                "banker",
                "doctor",
                "lawyer",
                "teacher",
                "pilot",
                "police officer",
                "accountant",
                "priest",
                "football coach",
                "nurse",
            ],
            "crime": [
                "fraud",
                "bribery",
                "arson",
                "theft",
                "blackmail",
                "forgery",
                "tax evasion",
                "smuggling",
                "perjury",
                "robbery",
            ],
        },
    ),
    Kind(
        "match",
        lead=[
            "[Fans|Supporters] saw [a dramatic|an unforgettable|a tense] {round} [on {day}|this weekend].",
            "It was [a dramatic|an unforgettable|a tense] {round}, and [few|nobody] in the stadium will forget it.",
        ],
        points=[
            Point(
                [
                    [
                        "The home side, {town}, [had the better start|attacked from the first minute].",
                        "{town} [had the better start|attacked from the first minute].",
                    ],
                    [
                        "[Visitors|Opponents] {town_away} [defended deep|never gave up].",
                        "{town_away} [had two men sent off|missed a penalty].",
                    ],
                    ["In the end the home team won {score}.", "It finished {score} to the home team."],
                ],
                [
                    "{town} [beat|defeated] {town_away} {score} in the {round}.",
                    "{town} won the {round} {score} against {town_away}.",
                ],
            ),
            Point(
                [
                    [
                        "The [decisive|winning] goal came from {person} in minute {dozens}.",
                        "{person} [scored|struck] the [winner|decisive goal] in minute {dozens}.",
                    ]
                ],
                ["{person} scored the winner in minute {dozens}.", "The winner came from {person} in minute {dozens}."],
            ),
            Point(
                [
                    [
                        "A crowd of {thousands} [filled|came to] the stadium.",
                        "[There were|The gates counted] {thousands} [spectators|people] in the stadium.",
                    ]
                ],
                ["{thousands} people [watched|saw it].", "The crowd was {thousands}."],
                True,
            ),
            Point(
                [
                    [
                        "Coach {person_coach} will [leave|step down] at the end of the season.",
                        "[Afterwards|Later] coach {person_coach} said it was [time to leave|the last season].",
                    ]
                ],
                ["Coach {person_coach} will leave.", "Coach {person_coach} is leaving."],
                True,
            ),
        ],
        follow=[
            [
                "{person} [kissed the badge|ran to the fans] and was [carried|lifted] on shoulders.",
                '"[I dreamed of this|I just closed my eyes]," said {person}.',
            ],
            [
                "{town} last [beat|defeated] {town_away} [three years ago|in another age].",
                "[Buses|Trains] took the fans of {town_away} home [in the rain|in silence].",
            ],
            [
                "[Players|Fans] sang the name of {person} for [an hour|minutes].",
                "{person} [had been injured|had not scored] [for months|since the spring].",
            ],
        ],
        aside=[
            [
                "{person_b} had [hit the post|come close] in minute {dozens_b}.",
                "In minute {dozens_b} {person_b} [hit the post|shot over the bar].",
            ],
            [
                "{town_b} and {town_c} [drew|meet] in the other game before {thousands_b} people.",
                "[Elsewhere|In the other game] {town_b} lost to {town_c} before {thousands_b} people.",
            ],
            [
                "Goalkeeper {person_c}, {age_b}, [made|had] {few_b} [fine|brave] saves.",
                "There were {few_b} [fine|brave] saves by goalkeeper {person_c}, {age_b}.",
            ],
            [
                "Referee {person_d} [showed|gave] {few_c} yellow cards.",
                "{few_c} yellow cards were [shown|given] by referee {person_d}.",
            ],
        ],
        words={"round": ["cup final", "semi-final", "league match", "quarter-final", "derby", "opening match"]},
    ),
    Kind(
        "signing",
        lead=[
            "The transfer window brought [one more|another] surprise [on {day}|this week].",
            "[Fans|Supporters] [queued|gathered] [on {day}|this week] to see a new [star|face].",
        ],
        points=[
            Point(
                [
                    [
                        "The player is {person}, a {position} of {age}.",
                        "{person}, a {age}-year-old {position}, [passed the medical test|posed with a scarf].",
                    ],
                    [
                        "The [new club|buyer] is {town}, [third|top] in the table.",
                        "{town} [had been looking|had searched] for such a player [for months|since the summer].",
                    ],
                ],
                [
                    "{town} [signed|have signed] {position} {person}, {age}.",
                    "{position} {person}, {age}, [joined|has joined] {town}.",
                ],
            ),
            Point(
                [
                    [
                        "The fee [paid|that goes] to {town_from} is {money}.",
                        "{town_from} [receive|will get] {money} [in two parts|at once].",
                    ]
                ],
                ["The fee paid to {town_from} is {money}.", "{town_from} [receive|get] {money}."],
            ),
            Point(
                [["The contract [runs|lasts] for {few} years.", "A contract for {few} years [has been|was] signed."]],
                ["The contract [runs|is] for {few} years.", "The contract lasts {few} years."],
                True,
            ),
            Point(
                [
                    [
                        "Coach {person_coach} [plans|wants] to use the player first on {date}.",
                        "The first match will be on {date}, coach {person_coach} said.",
                    ]
                ],
                [
                    "The first match is on {date}, coach {person_coach} said.",
                    "Coach {person_coach} said the first match is on {date}.",
                ],
                True,
            ),
        ],
        follow=[
            [
                "{person} [grew up|learned to play] [by the sea|in a small village] and [has a twin|speaks little].",
                '"[I want to win things|It feels like home]," {person} said.',
            ],
            [
                "[Nobody|No one] at {town} had ever cost as much as {money}.",
                "At {money}, {person} is [a risk|good value], [experts|fans] say.",
            ],
            [
                "{town_from} [paid far less|paid nothing] for {person}.",
                "[Fans|Supporters] of {town_from} [were angry|took the news calmly].",
            ],
        ],
        aside=[
            [
                "{person_b}, a goalkeeper of {age_b}, [may leave|wants to leave] for {town_b}.",
                "{town_b} [are said to|may] want {person_b}, the goalkeeper, {age_b}.",
            ],
            [
                "In {year_b} the club paid {money_b} for {person_c}, [who soon left|who was never fit].",
                "{person_c} cost {money_b} in {year_b} and [soon left|was never fit].",
            ],
            [
                "The team has [won|lost] {few_b} of the last {dozens_b} games.",
                "Of the last {dozens_b} games, the team [won|lost] {few_b}.",
            ],
        ],
        words={"position": ["striker", "defender", "midfielder", "winger"]},
    ),
    Kind(
        "study",
        lead=[
            "[Scientists|Researchers] [reported|published] a finding [on {day}|this week] [that may change "
            "habits|that surprised even them].",
            "A [long|careful] [study|piece of research] [published|presented] [on {day}|this week] has "
            "[surprised|pleased] "
            "doctors.",
        ],
        points=[
            Point(
                [
                    [
                        "The team [found|showed] that {habit} [lowers|may lower] the risk of {illness}.",
                        "Those used to {habit} were less likely to [suffer from|develop] {illness}.",
                    ]
                ],
                [
                    "{habit} [lowers|may lower] the risk of {illness}, a study [found|says].",
                    "A study [found|says] {habit} [lowers|may lower] the risk of {illness}.",
                ],
            ),
            Point(
                [
                    [
                        "The risk was {percent} lower [after ten years|in both men and women].",
                        "The [difference|fall] in risk was {percent}.",
                    ]
                ],
                ["The risk fell by {percent}.", "It was {percent} lower."],
            ),
            Point(
                [
                    [
                        "Professor {person} [led|directed] the work at the University of {town}.",
                        "At the University of {town}, professor {person} [led|directed] the work.",
                    ],
                    [
                        "The team followed {thousands} [adults|volunteers].",
                        "[Data|Records] of {thousands} [adults|volunteers] were [studied|compared].",
                    ],
                ],
                [
                    "Professor {person} of {town} [followed|studied] {thousands} people.",
                    "{thousands} people were [followed|studied] by professor {person} of {town}.",
                ],
            ),
        ],
        follow=[
            [
                "{person} [warned|said] that {percent} is an average [and not a promise|over many groups].",
                '"[We checked again and again|It is a small step]," {person} [said|noted].',
            ],
            [
                "None of the {thousands} [people|volunteers] had {illness} [at the start|before].",
                "The {thousands} [people|volunteers] [kept diaries|answered questions] [every month|once a year].",
            ],
            [
                "[Doctors|Experts] know little of what causes {illness}.",
                "[Patients|Families] living with {illness} [welcomed|greeted] the [result|news].",
            ],
        ],
        aside=[
            [
                "{person_b} of the University of {town_b}, who [was not involved|took no part], "
                "[urged|asked for] caution.",
                "[Caution is needed|More work is needed], said {person_b} of the University of {town_b}.",
            ],
            [
                "A study of {year_b} with {thousands_b} people [found|saw] [no effect|the opposite].",
                "In {year_b} a study with {thousands_b} people [found|saw] [no effect|the opposite].",
            ],
            [
                "The [work|project] cost {money_b}, [paid|given] by {company_b}.",
                "{company_b} [paid|gave] {money_b} [for the work|to the project].",
            ],
            [
                "Some {percent_b} of adults [say|claim] they [eat well|sleep badly].",
                "[Among|Of all] adults, {percent_b} [eat too much|sleep badly].",
            ],
        ],
        words={
            "habit": [
                "walking",
                "eating nuts",
                "drinking tea",
                "singing",
                "gardening",
                "swimming",
                "reading",
                "an early breakfast",
                "sleeping late",
                "eating fish",
                "dancing",
                "cold water",
            ],
            "illness": [
                "heart disease",
                "back pain",
                "asthma",
                "diabetes",
                "stroke",
                "memory loss",
                "migraine",
                "depression",
                "hearing loss",
                "poor sleep",
            ],
        },
    ),
    Kind(
        "crash",
        lead=[
            "[Police|Investigators] are [looking for witnesses|asking for help] after an accident [on "
            "{day}|this week].",
            "[Traffic|The road] was [blocked|closed] for hours [on {day}|this week] after [an|a serious] accident.",
        ],
        points=[
            Point(
                [
                    [
                        "A {vehicle} [skidded|swerved] and [hit|struck] a {obstacle}.",
                        "[Witnesses|Drivers] saw a {vehicle} [hit|run into] a {obstacle}.",
                    ],
                    [
                        "It happened [near|just outside] {town}, [on a bend|at a crossing].",
                        "The [place|spot], [near|not far from] {town}, is [known to be dangerous|on a bend].",
                    ],
                ],
                ["A {vehicle} [hit|struck|crashed into] a {obstacle} near {town}."],
            ),
            Point(
                [
                    [
                        "[Ambulances|Helicopters] took {few} [people|passengers] to hospital.",
                        "{few} [people|passengers] were [hurt|injured], [none|one] of them badly.",
                    ]
                ],
                ["{few} people were [hurt|injured].", "It left {few} people [hurt|injured]."],
            ),
            Point(
                [
                    [
                        "The driver, {person}, {age}, [was unhurt|walked away].",
                        "At the wheel was {person}, {age}, [who was unhurt|who was alone].",
                    ],
                    [
                        "[Tests|Police tests] showed that the driver had {fault}.",
                        "[Police|Officers] said the driver had {fault}.",
                    ],
                ],
                [
                    "Driver {person}, {age}, had {fault}, police said.",
                    "Police said driver {person}, {age}, had {fault}.",
                ],
            ),
            Point(
                [
                    [
                        "The road [stays|will be] closed until {date}.",
                        "Repairs [mean|will mean] a closed road until {date}.",
                    ]
                ],
                ["The road is closed until {date}.", "The road will not open until {date}."],
                True,
            ),
        ],
        follow=[
            [
                "{person} [told police|said] it [was all very fast|was dark] and [wept|apologised].",
                '"[I am so sorry|I never saw it]," {person} [told|said to] officers.',
            ],
            [
                "The {vehicle} was [towed away|a total loss].",
                "[Cranes|Crews] [lifted|pulled] the {vehicle} [from the ditch|off the road].",
            ],
            [
                "[People|Residents] in {town} have [asked|called] for [a speed limit|traffic lights] [for "
                "years|before].",
                "The mayor of {town} [promised|wants] [a speed limit|traffic lights].",
            ],
        ],
        aside=[
            [
                "In {month_b} a {vehicle_b} [overturned|broke down] [near|outside] {town_b}, and {few_b} "
                "people were hurt.",
                "{few_b} people were hurt in {month_b} when a {vehicle_b} [overturned|slid] near {town_b}.",
            ],
            [
                "{person_b}, {age_b}, who [cycled|drove] past, [called|phoned] for help.",
                "[Help|An ambulance] was called by {person_b}, {age_b}, who [cycled|drove] past.",
            ],
            [
                "The [queue|jam] was {dozens_b} kilometres long and [reached|ended in] {town_c}.",
                "[Cars|Drivers] [waited|stood] for {dozens_b} kilometres, as far as {town_c}.",
            ],
        ],
        words={
            "vehicle": [
                "school bus",
                "truck",
                "tractor",
                "van",
                "taxi",
                "fire engine",
                "milk tanker",
                "sports car",
                "motorbike",
                "tram",
            ],
            "obstacle": [
                "bridge",
                "tree",
                "shop window",
                "wall",
                "train",
                "petrol station",
                "parked car",
                "power line",
                "church",
                "house",
            ],
            "fault": [
                "fallen asleep",
                "been drinking",
                "run a red light",
                "used a phone",
                "driven too fast",
                "no licence",
                "lost control",
                "missed a sign",
            ],
        },
    ),
    Kind(
        "rescue",
        lead=[
            "A [rescue|search] that [gripped|moved] the nation [came to a happy end|ended well] [on {day}|this week].",
            "There were [tears|cheers] of [joy|relief] [on {day}|this week] as a long [search|rescue] ended.",
        ],
        points=[
            Point(
                [
                    [
                        "[Rescuers|Volunteers] found {person}, {age}, [alive|weak but awake].",
                        "{person}, {age}, was [alive|awake] and [asked for tea|smiled].",
                    ],
                    [
                        "The {hobby} had [got lost|fallen] [near|above] {town}.",
                        "It was [near|above] {town} that the {hobby} [vanished|was last seen].",
                    ],
                ],
                [
                    "{person}, {age}, a {hobby}, was rescued near {town}.",
                    "[Rescuers|Rescue teams] saved {hobby} {person}, {age}, near {town}.",
                ],
            ),
            Point(
                [
                    [
                        "[Without food|In the cold], the {hobby} survived for {few} days on {food}.",
                        "For {few} days there was nothing to eat but {food}.",
                    ]
                ],
                [
                    "The {hobby} [survived|lived] for {few} days on {food}.",
                    "{food} was all there was to eat for {few} days.",
                ],
            ),
            Point(
                [
                    [
                        "Some {hundreds} [soldiers|volunteers] took part, said team leader {person_leader}.",
                        "Team leader {person_leader} had {hundreds} [helpers|volunteers] and [two dogs|a helicopter].",
                    ]
                ],
                [
                    "{hundreds} people [searched|took part], team leader {person_leader} said.",
                    "Team leader {person_leader} [led|sent out] {hundreds} people.",
                ],
                True,
            ),
        ],
        follow=[
            [
                "{person_leader} [called it|spoke of] a miracle.",
                '"[We never gave up|I had almost lost hope]," {person_leader} [said|admitted].',
            ],
            [
                "The family of {person} [thanked|embraced] the [helpers|crew].",
                "[Doctors|Nurses] said {person} [could go home soon|needs rest].",
            ],
            [
                "{person} [plans to return|will not go back] to {town}.",
                "[Hotels|Guides] in {town} [offered|gave] free [rooms|meals] to the searchers.",
            ],
            [
                "[Nobody|No one] had thought {food} could keep a person alive for {few} days.",
                "{few} days is [a long time|an eternity] out there, [doctors|guides] said.",
            ],
        ],
        aside=[
            [
                "In {year_b} {person_b}, {age_b}, was lost [near|outside] {town_b} for {few_b} days.",
                "{person_b}, {age_b}, [vanished|was lost] for {few_b} days near {town_b} in {year_b}.",
            ],
            [
                "A [dog|horse] owned by {person_c} of {town_c} [found|picked up] the trail.",
                "{person_c} of {town_c} [heard|reported] [shouts|a whistle].",
            ],
            [
                "The [operation|search] cost {sum_b}, [paid|covered] by {company_b}.",
                "{company_b} [paid|covered] the cost of {sum_b}.",
            ],
        ],
        words={
            "hobby": ["climber", "hiker", "sailor", "skier", "diver", "cyclist", "pilot", "fisherman", "camper"],
            "food": ["snow", "berries", "chocolate", "rain water", "dry bread", "raw fish", "apples", "biscuits"],
        },
    ),
    Kind(
        "strike",
        lead=[
            "[Commuters|Thousands] [faced|woke up to] [long delays|an unusual quiet] [on {day}|this "
            "week] as workers "
            "[walked out|stayed at home].",
            "[Talks|Negotiations] [collapsed|broke down] [on {day}|this week], and workers [walked out|stopped work].",
        ],
        points=[
            Point(
                [
                    [
                        "The [action|strike] is by {workers} at {company}.",
                        "{company} [said|confirmed] that its {workers} had [walked out|stopped work].",
                    ]
                ],
                ["{workers} at {company} [went|are] on strike.", "{company} is hit by a strike of its {workers}."],
            ),
            Point(
                [
                    [
                        "The union [wants|demands] [a pay rise of|at least] {rise} more.",
                        "The union is asking for {rise} more pay.",
                    ],
                    [
                        "[Managers|The employers] [offered|would give] only {offer}.",
                        "The [last|best] offer was {offer}, [managers|the employers] said.",
                    ],
                ],
                [
                    "The union wants {rise} more pay but was offered {offer}.",
                    "The offer of {offer} falls short of the {rise} the union wants.",
                ],
            ),
            Point(
                [
                    [
                        "Union leader {person} [spoke|addressed a rally] in {town}.",
                        "In {town}, union leader {person} [spoke to|led] a crowd.",
                    ],
                    [
                        "The strike [will last|goes on] until {date}.",
                        "[Work|Normal work] will not [resume|begin] until {date}.",
                    ],
                ],
                [
                    "The strike will last until {date}, union leader {person} said.",
                    "Union leader {person} said it will last until {date}.",
                ],
            ),
        ],
        follow=[
            [
                "{person} called {offer} [an insult|a bad joke].",
                '"[We cannot live on that|Enough is enough]," {person} [shouted|said].',
            ],
            [
                "{company} [made|reported] a [record|large] profit [last year|in spring].",
                "A [spokesman|spokeswoman] for {company} [regretted|defended] the offer of {offer}.",
            ],
            [
                "[Shops|Cafes] in {town} [gave|offered] free [coffee|soup] to the {workers}.",
                "[Some|Many] people in {town} [support|understand] the {workers}.",
            ],
        ],
        aside=[
            [
                "In {year_b} a strike at {company_b} [lasted|ended after] {dozens_b} days with a rise of {percent_b}.",
                "{company_b} [gave|agreed to] {percent_b} in {year_b} after {dozens_b} days.",
            ],
            [
                "{person_b}, {age_b}, [missed|almost missed] a flight from {town_b}.",
                "[Stranded|Stuck] in {town_b}, {person_b}, {age_b}, [slept on a bench|rented a bicycle].",
            ],
            [
                "Economist {person_c} [put|estimated] the cost at {money_b} a day.",
                "It costs {money_b} a day, said economist {person_c}.",
            ],
        ],
        words={
            "workers": [
                "bus drivers",
                "nurses",
                "pilots",
                "train drivers",
                "teachers",
                "cleaners",
                "postal workers",
                "dock workers",
                "cooks",
                "miners",
                "bakers",
                "printers",
            ]
        },
    ),
    Kind(
        "award",
        lead=[
            "[Tears|Surprise] and [long applause|laughter] [marked|filled] a gala [on {day}|this week].",
            "The [winner|name] of [this year's|a coveted] prize was [announced|revealed] [on {day}|this week].",
        ],
        points=[
            Point(
                [
                    [
                        "The jury [chose|voted for] {person} of {town}.",
                        "[First|The winner] was {person} of {town}, [who had not expected it|in a plain black suit].",
                    ],
                    [
                        "The {town_prize} Prize is [given|awarded] for the best {work}.",
                        "[Critics|Many] see the {town_prize} Prize as the highest honour for a {work}.",
                    ],
                ],
                [
                    "{person} of {town} [won|wins] the {town_prize} Prize.",
                    "The {town_prize} Prize [went|goes] to {person} of {town}.",
                ],
            ),
            Point(
                [
                    [
                        "The [winning|prize-winning] {work} tells the story of {theme}.",
                        "It is a {work} about {theme}, [told with humour|made in one year].",
                    ]
                ],
                ["The {work} is about {theme}.", "It was for a {work} about {theme}."],
            ),
            Point(
                [
                    [
                        "The prize is worth {sum}, [paid|given] by {company}.",
                        "{company} [pays|gives] the {sum} in prize money.",
                    ]
                ],
                ["The prize is worth {sum}.", "The prize money is {sum}."],
            ),
            Point(
                [
                    [
                        "Head of the jury {person_jury} [praised|spoke of] {virtue}.",
                        "It was {virtue} that [won over|convinced] head of the jury {person_jury}.",
                    ]
                ],
                [
                    "Head of the jury {person_jury} praised {virtue}.",
                    "{virtue} was praised by head of the jury {person_jury}.",
                ],
                True,
            ),
        ],
        follow=[
            [
                "{person} [will give|gave] the {sum} to [a school|a charity].",
                '"[I am speechless|This belongs to my mother]," said {person}.',
            ],
            [
                "In {town}, [bells rang|a crowd danced] [at the news|until midnight].",
                "[Teachers|Old friends] in {town} [remember|recall] {person} as a [shy|restless] child.",
            ],
            [
                "{company} has [supported|backed] the {town_prize} Prize [for years|since the beginning].",
                "The {town_prize} Prize has [often|never] been [disputed|refused].",
            ],
        ],
        aside=[
            [
                "In {year_b} the prize [went|had gone] to {person_b} of {town_b}.",
                "{person_b} of {town_b} had [won|taken] it in {year_b}.",
            ],
            [
                "{dozens_b} [works|names] from {dozens_c} countries were [entered|considered].",
                "The jury [looked at|discussed] {dozens_b} works from {dozens_c} countries.",
            ],
            [
                "A second prize of {sum_b} went to {person_c}, {age_b}.",
                "{person_c}, {age_b}, took second prize and {sum_b}.",
            ],
        ],
        words={
            "work": ["novel", "film", "play", "poem", "documentary", "painting", "musical", "comic"],
            "theme": [
                "a lost brother",
                "two rival cooks",
                "a lighthouse",
                "a blind painter",
                "a village wedding",
                "a failed robbery",
                "life at sea",
                "an old piano",
                "a runaway train",
                "a secret garden",
            ],
            "virtue": [
                "its honesty",
                "its courage",
                "its humour",
                "its simple language",
                "its warmth",
                "its dark beauty",
                "its music",
            ],
        },
    ),
    Kind(
        "robbery",
        lead=[
            "[Detectives|Police] [worked|searched] [all night|around the clock] after a robbery [on {day}|this week].",
            "A [daring|bold] robbery [shocked|puzzled] [residents|police] [on {day}|this week].",
        ],
        points=[
            Point(
                [
                    [
                        "[Thieves|Robbers] broke into a {shop} on {road} [in broad daylight|through the roof].",
                        "The [target|scene] was a {shop} on {road}.",
                    ],
                    [
                        "[Roads|Stations] around {town} were [closed|watched].",
                        "[Officers|Police] [stopped|checked] every car leaving {town}.",
                    ],
                ],
                ["[Thieves|Robbers] [raided|robbed] a {shop} in {town}.", "A {shop} in {town} was [raided|robbed]."],
            ),
            Point(
                [["They [took|got away with] {loot} worth {sum}.", "[Gone|Missing] are {loot} worth {sum}."]],
                ["{loot} worth {sum} were [stolen|taken].", "They [stole|took] {loot} worth {sum}."],
            ),
            Point(
                [
                    [
                        "Inspector {person} said {few} [men|suspects] had been [arrested|caught].",
                        "{few} [men|suspects] were [arrested|held], inspector {person} said.",
                    ]
                ],
                [
                    "{few} suspects were arrested, inspector {person} said.",
                    "Inspector {person} said {few} suspects were arrested.",
                ],
            ),
            Point(
                [
                    [
                        "They [fled|escaped] in a {car} [without plates|driven by a woman].",
                        "[Cameras|A camera] [filmed|recorded] a {car} [speeding away|nearby].",
                    ]
                ],
                ["They fled in a {car}.", "The getaway car was a {car}."],
                True,
            ),
        ],
        follow=[
            [
                "{person} [asked|begged] anyone who [was on|had walked along] {road} to come forward.",
                '"[They knew what they wanted|It was over in minutes]," said {person}.',
            ],
            [
                "The {loot} [were insured|had arrived a day before], the owner of the {shop} said.",
                "[None|Few] of the {loot} have been [found|recovered].",
            ],
            [
                "[People|Shopkeepers] on {road} are [nervous|afraid].",
                "[Business|Life] on {road} was [slowly returning|back] to normal.",
            ],
        ],
        aside=[
            [
                "In {month_b} a {shop_b} in {town_b} had lost {sum_b}.",
                "Thieves took {sum_b} from a {shop_b} in {town_b} in {month_b}.",
            ],
            [
                "{person_b}, {age_b}, who [sells flowers|walks a dog] on {road_b}, heard [shots|an alarm].",
                "[Shots|An alarm] on {road_b} [woke|startled] {person_b}, {age_b}.",
            ],
            [
                "{company_b} [offered|promised] a reward of {sum_c}.",
                "A reward of {sum_c} was [offered|promised] by {company_b}.",
            ],
        ],
        words={
            "shop": ["bank", "museum", "post office", "pharmacy", "gallery", "watch shop", "casino", "camera shop"],
            "loot": [
                "diamonds",
                "gold coins",
                "old stamps",
                "watches",
                "paintings",
                "silver spoons",
                "rare books",
                "pearls",
                "medicines",
            ],
            "car": [
                "red van",
                "black taxi",
                "white truck",
                "green jeep",
                "grey van",
                "blue sports car",
                "stolen ambulance",
                "yellow bus",
            ],
        },
    ),
    Kind(
        "outbreak",
        lead=[
            "[Health officials|Doctors] [urged|asked] people [to stay calm|to wash their hands] [on {day}|this week].",
            "[Hospitals|Clinics] were [busy|crowded] [on {day}|this week], [and officials were "
            "worried|as an illness "
            "spread].",
        ],
        points=[
            Point(
                [
                    [
                        "[Tests|Samples] [confirmed|showed] {illness} in {dozens} [people|patients].",
                        "So far {dozens} [people|patients] have [caught|been treated for] {illness}.",
                    ],
                    ["Most of them [live|work] in {town}.", "The [first|earliest] case was [found|seen] in {town}."],
                ],
                [
                    "{dozens} people [fell ill|are ill] with {illness} in {town}.",
                    "{illness} has struck {dozens} people in {town}.",
                ],
            ),
            Point(
                [
                    [
                        "[Inspectors|Experts] traced it to {source} [sold|made] by {company}.",
                        "It was [traced|linked] to {source} from {company}.",
                    ]
                ],
                [
                    "It was [traced|linked] to {source} from {company}.",
                    "The [source|cause] was {source} from {company}.",
                ],
            ),
            Point(
                [
                    [
                        "[Health chief|Chief doctor] {person} said schools would [close|stay closed] until {date}.",
                        "Schools are closed until {date}, health chief {person} said.",
                    ]
                ],
                [
                    "Schools are closed until {date}, health chief {person} said.",
                    "Health chief {person} closed schools until {date}.",
                ],
            ),
            Point(
                [
                    [
                        "The [state|ministry] ordered {thousands} doses of [vaccine|medicine].",
                        "{thousands} doses of [vaccine|medicine] are [on the way|being sent].",
                    ]
                ],
                ["{thousands} doses of medicine were ordered.", "The state ordered {thousands} doses."],
                True,
            ),
        ],
        follow=[
            [
                "{person} [expects|feared] [more cases|further cases] of {illness} [in the coming days|soon].",
                '"[There is no reason to panic|We are prepared]," {person} said.',
            ],
            [
                "{company} [apologised|said it was sorry] and [recalled|destroyed] [stock|everything].",
                "[Shops|Markets] [removed|took] {source} from [shelves|sale].",
            ],
            [
                "[Parents|Families] in {town} [stayed|kept children] at home.",
                "[Streets|Parks] in {town} were [empty|quiet].",
            ],
        ],
        aside=[
            [
                "In {year_b} {illness_b} had [struck|affected] {dozens_b} people in {town_b}.",
                "{town_b} had {dozens_b} cases of {illness_b} in {year_b}.",
            ],
            [
                "{person_b}, {age_b}, [spent|was] {few_b} days in bed.",
                "After {few_b} days in bed, {person_b}, {age_b}, is [well again|at work].",
            ],
            [
                "Professor {person_c} of {town_c} [doubts|questions] the [numbers|tests].",
                "The [numbers|tests] may be wrong, said professor {person_c} of {town_c}.",
            ],
            [
                "{company_b} is [working on|testing] a [vaccine|new drug].",
                "A [vaccine|new drug] is being [tested|made] by {company_b}.",
            ],
        ],
        words={
            "illness": [
                "measles",
                "cholera",
                "a rare flu",
                "food poisoning",
                "typhoid",
                "a skin rash",
                "mumps",
                "a stomach virus",
                "swine fever",
                "hepatitis",
            ],
            "source": [
                "cheese",
                "salad",
                "bottled water",
                "sausages",
                "ice cream",
                "frozen fish",
                "eggs",
                "juice",
                "cold meat",
                "oysters",
            ],
        },
    ),
]
